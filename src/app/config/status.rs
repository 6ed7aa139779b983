//! Reading `[status]`.
use std::net::SocketAddr;

use super::section::Section;
use crate::base::secret::Secret;

/// Where the status page listens without being told: this box only.
const DEFAULT: &str = "127.0.0.1:9618";

/// `[status]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusConfig {
    /// Address and port; `None`: there is no page.
    pub listen: Option<SocketAddr>,
    /// What a reader must bring; needed beyond loopback.
    pub token: Option<Secret>,
}

pub(super) fn read_status(section: Section<'_, '_>) -> StatusConfig {
    let token = section.secret("token_file");
    if token.as_ref().is_some_and(|t| t.expose().len() < 16) {
        section.wrong(
            "token_file",
            "holds fewer than 16 characters",
            "write a long random word into it, such as `openssl rand -hex 32` makes",
        );
    }
    let text = section.text("listen").unwrap_or(DEFAULT);
    let listen = match text {
        "off" => None,
        text => {
            let address: Option<SocketAddr> = text.parse().ok();
            if address.is_none() {
                section.wrong(
                    "listen",
                    format!("`{text}` is no address with a port"),
                    "write it like `127.0.0.1:9618` or `[::1]:9618`, or `off`",
                );
            }
            address
        }
    };
    if let Some(address) = listen
        && !address.ip().is_loopback()
        && !section.has("token_file")
    {
        section.wrong(
            "listen",
            format!("{address} can be reached from other machines and needs `token_file`"),
            "add `token_file = \"…\"`, or listen on 127.0.0.1",
        );
    }
    section.finish();
    StatusConfig { listen, token }
}
