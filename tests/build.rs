//! Sets `cfg(has_shared)` when the shared data folder stands beside the checkout, so that tests on
//! its real clips run, and are otherwise listed as ignored with the reason instead of passing.
use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_shared)");
    println!("cargo::rerun-if-env-changed=MINGCHU_SHARED");
    let root = std::env::var("MINGCHU_SHARED")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared").to_owned());
    let clips = Path::new(&root).join("data/clips");
    println!("cargo::rerun-if-changed={}", clips.display());
    if clips.join("kitchen-cook.mp4").is_file() {
        println!("cargo::rustc-cfg=has_shared");
    }
}
