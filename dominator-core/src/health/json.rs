use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Address, BadHealth, HealthCheck, HealthChecks, Probe, Url};
use crate::path::ImagePath;

/// As people write it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Checks {
    #[serde(default)]
    deadline: Option<String>,
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Check {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<Http>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unix: Option<String>,
    #[serde(default)]
    timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    #[serde(default)]
    delay: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Http {
    #[serde(rename = "URL")]
    url: String,
    #[serde(rename = "Status", default = "ok")]
    status: u16,
}

fn ok() -> u16 {
    Probe::OK
}

impl HealthChecks {
    /// Reads JSON.
    ///
    /// # Errors
    /// [`BadHealth`] when it is none; unknown fields are refused, since a misspelt check must not be dropped.
    pub fn from_json(json: &[u8]) -> Result<Self, BadHealth> {
        if json.len() > Self::MAX_JSON {
            return Err(BadHealth::TooMany);
        }
        // A list would do for serde: its fields in order.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(BadHealth::Json("it does not begin with {".to_owned()));
        }
        let read: Checks =
            serde_json::from_slice(json).map_err(|error| BadHealth::Json(error.to_string()))?;
        let deadline = match &read.deadline {
            Some(text) => time(text).ok_or(BadHealth::Deadline)?,
            None => Self::DEADLINE,
        };
        Self::new(read.checks.into_iter().map(parsed).collect::<Result<_, _>>()?, deadline)
    }

    /// The checks as JSON, in one spelling.
    pub fn to_json(&self) -> String {
        let checks = self.checks.iter().map(written).collect();
        let text = Checks { deadline: Some(spelt(self.deadline)), checks };
        serde_json::to_string_pretty(&text).expect("invariant: strings and numbers always serialise")
    }
}

fn parsed(check: Check) -> Result<HealthCheck, BadHealth> {
    let Check { name, command, unit, tcp, http, unix, timeout, retries, delay } = check;
    let wrong = |why: &str| BadHealth::Check { name: name.chars().take(80).collect(), why: why.into() };
    let mut probes = Vec::new();
    probes.extend(command.map(Probe::Command));
    probes.extend(unit.map(Probe::Unit));
    if let Some(tcp) = tcp {
        probes.push(Probe::Tcp(tcp.parse::<Address>().map_err(wrong)?));
    }
    if let Some(Http { url, status }) = http {
        probes.push(Probe::Http { url: url.parse::<Url>().map_err(wrong)?, status });
    }
    if let Some(unix) = unix {
        let path = ImagePath::parse(unix.as_bytes());
        probes.push(Probe::Unix(path.map_err(|_| wrong("its socket is no absolute path"))?));
    }
    let (Some(probe), true) = (probes.pop(), probes.is_empty()) else {
        return Err(wrong("it must have one of Command, Unit, Tcp, Http and Unix, and only one"));
    };
    let limit = |text: Option<String>, usual: Duration| match text {
        Some(text) => time(&text).ok_or_else(|| wrong("its times are not as in 5s, 500ms, 2m or 1h")),
        None => Ok(usual),
    };
    let timeout = limit(timeout, HealthChecks::TIMEOUT)?;
    let delay = limit(delay, HealthChecks::DELAY)?;
    Ok(HealthCheck { name, probe, timeout, retries, delay })
}

fn written(check: &HealthCheck) -> Check {
    let mut text = Check {
        name: check.name.clone(),
        timeout: Some(spelt(check.timeout)),
        retries: check.retries,
        delay: Some(spelt(check.delay)),
        ..Check::default()
    };
    match &check.probe {
        Probe::Command(words) => text.command = Some(words.clone()),
        Probe::Unit(unit) => text.unit = Some(unit.clone()),
        Probe::Tcp(address) => text.tcp = Some(address.to_string()),
        Probe::Http { url, status } => text.http = Some(Http { url: url.to_string(), status: *status }),
        Probe::Unix(path) => text.unix = Some(String::from_utf8_lossy(path.as_bytes()).into_owned()),
    }
    text
}

/// A whole number with its unit.
fn time(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = digits.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// In seconds, if that is a whole number.
fn spelt(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"Deadline": "2m", "Checks": [
        {"Name": "web answers", "Http": {"URL": "http://127.0.0.1:80/healthz"}, "Timeout": "1500ms", "Retries": 3},
        {"Name": "works", "Command": ["/usr/bin/x", "--arg"], "Delay": "20ms"},
        {"Name": "runs", "Unit": "nginx.service"},
        {"Name": "listens", "Tcp": "[::1]:22"},
        {"Name": "socket", "Unix": "/run/x.sock"}
    ]}"#;

    #[test]
    fn what_people_write_has_one_spelling() {
        let checks = HealthChecks::from_json(JSON.as_bytes()).unwrap();
        assert_eq!((checks.len(), checks.deadline()), (5, Duration::from_secs(120)));
        let first = checks.iter().next().unwrap();
        assert_eq!((first.timeout, first.retries), (Duration::from_millis(1500), Some(3)));
        assert_eq!(
            (first.delay, first.probe.to_string().as_str()),
            (HealthChecks::DELAY, "http://127.0.0.1/healthz answers with status 200")
        );
        let spelt = checks.to_json();
        assert_eq!(HealthChecks::from_json(spelt.as_bytes()), Ok(checks));
        assert!(
            spelt.contains(r#""Deadline": "120s""#) && spelt.contains(r#""Timeout": "1500ms""#),
            "{spelt}"
        );
        assert_eq!(HealthChecks::from_json(b"{}"), Ok(HealthChecks::default()));
        assert_eq!(
            HealthChecks::from_json(HealthChecks::default().to_json().as_bytes()),
            Ok(HealthChecks::default())
        );
    }

    #[test]
    fn what_could_be_meant_otherwise_is_refused() {
        let check = |rest: &str| format!(r#"{{"Checks": [{{"Name": "x", {rest}}}]}}"#);
        let good = HealthChecks::from_json(check(r#""Unit": "a""#).as_bytes());
        good.unwrap();
        for bad in [
            r#""Unit": "a", "Tcp": "db:1""#,
            r#""Retries": 1"#,
            r#""Unti": "a""#,
            r#""Unit": "--all""#,
            r#""Command": []"#,
            r#""Command": ["nginx", "-t"]"#,
            r#""Unix": "run/x""#,
            r#""Unit": "a", "Timeout": "5""#,
            r#""Unit": "a", "Timeout": "0s""#,
            r#""Unit": "a", "Timeout": "2h""#,
            r#""Unit": "a", "Delay": "1ms""#,
            r#""Http": {"URL": "http://db/", "Status": 99}"#,
            r#""Http": {"URL": "http://db/", "Code": 200}"#,
        ] {
            let text = check(bad);
            assert!(HealthChecks::from_json(text.as_bytes()).is_err(), "{text}");
        }
        for bad in [r#"{"Deadline": "0s"}"#, r#"{"Deadline": "61m"}"#, r#"{"Deadlines": "1m"}"#, "[]"] {
            assert!(HealthChecks::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
        let twice = r#"{"Checks": [{"Name": "x", "Unit": "a"}, {"Name": "x", "Unit": "b"}]}"#;
        assert_eq!(HealthChecks::from_json(twice.as_bytes()), Err(BadHealth::Twice { name: "x".into() }));
    }
}
