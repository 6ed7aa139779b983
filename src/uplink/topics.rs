//! Topic names of the wire contract, built and taken apart in one place.
//!
//! `mingchu/v1/{region}/{site}/…`; every level is a [`Name`], so nothing a person configures can
//! break out of its level.
use uuid::Uuid;

use super::config::SiteIdentity;
use crate::base::ids::Name;

/// The first two levels; a new version of the contract gets new topics.
pub const PREFIX: &str = "mingchu/v1";
/// Everything of all sites, for an operator's view.
pub const ALL_SITES: &str = "mingchu/v1/#";

/// The topics of one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    base: String,
}

/// What a topic carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicKind {
    /// [`super::SiteStatus`], retained; also the last will.
    Status,
    /// [`super::CameraStatus`] of the named camera, retained.
    CameraStatus(Name),
    /// [`super::FindingEvent`] of the named violation code.
    Finding(Name),
    /// The newest [`super::FindingEvent`] of an open finding, retained; empty once it is closed.
    Active(Uuid),
    /// [`super::Telemetry`].
    Telemetry,
    /// [`super::Receipt`], centre to edge.
    Receipt,
    /// [`super::CoverageReport`] as an event.
    Coverage,
    /// [`super::Notice`] as an event.
    Notice,
    /// A file of a finding's evidence, by its number.
    Evidence(Uuid, u32),
    /// A command of this name, centre to edge.
    Command(Name),
    /// [`super::CommandResult`] as an event.
    CommandResult(Name),
    /// The config that the centre wants, retained, centre to edge.
    ConfigDesired,
    /// The config that is in force, retained.
    ConfigReported,
    /// A topic of the contract that this version neither sends nor reads; what follows the site.
    Other(String),
}

impl Topics {
    /// For one site.
    pub fn new(site: &SiteIdentity) -> Self {
        Self {
            base: format!("{PREFIX}/{}/{}", site.region, site.site),
        }
    }

    /// `…/status`
    pub fn status(&self) -> String {
        format!("{}/status", self.base)
    }

    /// `…/camera/{camera}/status`
    pub fn camera_status(&self, camera: &Name) -> String {
        format!("{}/camera/{camera}/status", self.base)
    }

    /// `…/finding/{code}`
    pub fn finding(&self, code: &Name) -> String {
        format!("{}/finding/{code}", self.base)
    }

    /// `…/active/{finding}`
    pub fn active(&self, finding: Uuid) -> String {
        format!("{}/active/{finding}", self.base)
    }

    /// A record's topic from what follows the site (`finding/{code}`, `coverage`, `notice`,
    /// `command/{name}/result`); `None` if one of its levels is no [`Name`].
    pub fn of_record(&self, tail: &str) -> Option<String> {
        let whole = tail.split('/').all(|level| Name::new(level).is_ok());
        whole.then(|| format!("{}/{tail}", self.base))
    }

    /// `…/coverage`
    pub fn coverage(&self) -> String {
        format!("{}/coverage", self.base)
    }

    /// `…/notice`
    pub fn notice(&self) -> String {
        format!("{}/notice", self.base)
    }

    /// `…/evidence/{finding}/{n}`
    pub fn evidence(&self, finding: Uuid, n: u32) -> String {
        format!("{}/evidence/{finding}/{n}", self.base)
    }

    /// `…/command/+`, a filter for all commands to this site.
    pub fn commands(&self) -> String {
        format!("{}/command/+", self.base)
    }

    /// `…/command/{name}/result`
    pub fn command_result(&self, name: &Name) -> String {
        format!("{}/command/{name}/result", self.base)
    }

    /// `…/config/desired`
    pub fn config_desired(&self) -> String {
        format!("{}/config/desired", self.base)
    }

    /// `…/config/reported`
    pub fn config_reported(&self) -> String {
        format!("{}/config/reported", self.base)
    }

    /// `…/telemetry`
    pub fn telemetry(&self) -> String {
        format!("{}/telemetry", self.base)
    }

    /// `…/receipt`
    pub fn receipt(&self) -> String {
        format!("{}/receipt", self.base)
    }

    /// A filter for everything of this site.
    pub fn all(&self) -> String {
        format!("{}/#", self.base)
    }

    /// Region, site and meaning of a topic; `None` if it is not of this contract.
    pub fn parse(topic: &str) -> Option<(Name, Name, TopicKind)> {
        let rest = topic.strip_prefix(PREFIX)?.strip_prefix('/')?;
        let mut levels = rest.splitn(3, '/');
        let region = Name::new(levels.next()?).ok()?;
        let site = Name::new(levels.next()?).ok()?;
        let rest = levels.next().filter(|r| !r.is_empty())?;
        let kind = match *rest.split('/').collect::<Vec<_>>() {
            ["status"] => TopicKind::Status,
            ["telemetry"] => TopicKind::Telemetry,
            ["receipt"] => TopicKind::Receipt,
            ["coverage"] => TopicKind::Coverage,
            ["notice"] => TopicKind::Notice,
            ["evidence", finding, n] => TopicKind::Evidence(finding.parse().ok()?, n.parse().ok()?),
            ["command", name] => TopicKind::Command(Name::new(name).ok()?),
            ["command", name, "result"] => TopicKind::CommandResult(Name::new(name).ok()?),
            ["config", "desired"] => TopicKind::ConfigDesired,
            ["config", "reported"] => TopicKind::ConfigReported,
            ["camera", camera, "status"] => TopicKind::CameraStatus(Name::new(camera).ok()?),
            ["finding", code] => TopicKind::Finding(Name::new(code).ok()?),
            ["active", finding] => TopicKind::Active(finding.parse().ok()?),
            _ => TopicKind::Other(rest.to_owned()),
        };
        Some((region, site, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::payload::tests::site;

    #[test]
    fn every_topic_parses_back_to_what_it_was_built_from() {
        let site = site();
        let topics = Topics::new(&site);
        let name = Name::new("ppe.hat.missing").unwrap();
        let id = Uuid::from_u128(7);
        let all = [
            (topics.status(), TopicKind::Status),
            (
                topics.camera_status(&name),
                TopicKind::CameraStatus(name.clone()),
            ),
            (topics.finding(&name), TopicKind::Finding(name.clone())),
            (topics.active(id), TopicKind::Active(id)),
            (topics.telemetry(), TopicKind::Telemetry),
            (topics.receipt(), TopicKind::Receipt),
            (topics.coverage(), TopicKind::Coverage),
            (topics.notice(), TopicKind::Notice),
            (topics.evidence(id, 2), TopicKind::Evidence(id, 2)),
            (
                topics.command_result(&name),
                TopicKind::CommandResult(name.clone()),
            ),
            (topics.config_desired(), TopicKind::ConfigDesired),
            (topics.config_reported(), TopicKind::ConfigReported),
        ];
        for (topic, kind) in all {
            assert!(
                topic.starts_with("mingchu/v1/410724/site-000123/"),
                "{topic}"
            );
            let parsed = Topics::parse(&topic);
            assert_eq!(
                parsed,
                Some((site.region.clone(), site.site.clone(), kind)),
                "{topic}"
            );
        }
        let other = Topics::parse("mingchu/v1/410724/site-000123/weather/today");
        assert_eq!(
            other.unwrap().2,
            TopicKind::Other("weather/today".to_owned())
        );
        assert_eq!(
            topics.of_record("finding/ppe.hat.missing"),
            Some(topics.finding(&name))
        );
        assert_eq!(topics.of_record("finding/A B"), None);
    }

    #[test]
    fn a_topic_of_somebody_else_is_not_ours() {
        for topic in [
            "",
            "mingchu/v1",
            "mingchu/v2/410724/site/status",
            "mingchu/v1/410724/site",
            "mingchu/v1/410724/site/",
            "mingchu/v1/410724/SITE/status",
            "mingchu/v1x/410724/site/status",
            "mingchu/v1/410724/site/active/not-a-uuid",
        ] {
            assert_eq!(Topics::parse(topic), None, "{topic}");
        }
    }
}
