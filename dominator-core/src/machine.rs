//! Machines as the machine data base (MDB) describes them, in the reference's JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::image::ImageName;

/// One machine of the fleet and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name, unique in the fleet.
    pub hostname: String,
    /// Where to dial it, if the name does not say: an address, or several logical machines on one box each with theirs.
    pub ip_address: Option<String>,
    /// Where it stands, as a path of places.
    pub location: String,
    /// The image it must be.
    pub required_image: Option<ImageName>,
    /// The image it will be, whose objects it may fetch in advance.
    pub planned_image: Option<ImageName>,
    /// It is looked at, but not changed.
    pub disable_updates: bool,
    /// Users who own it.
    pub owner_users: Vec<String>,
    /// Groups whose members own it.
    pub owner_groups: Vec<String>,
    /// Words to select it by.
    pub tags: BTreeMap<String, String>,
}

impl Machine {
    /// The port agents listen on.
    pub const PORT: u16 = 6969;

    /// A machine of which only the name is known.
    pub fn named(hostname: &str) -> Self {
        Self {
            hostname: hostname.into(),
            ip_address: None,
            location: String::new(),
            required_image: None,
            planned_image: None,
            disable_updates: false,
            owner_users: Vec::new(),
            owner_groups: Vec::new(),
            tags: BTreeMap::new(),
        }
    }

    /// The host to dial: the address if there is one, else the name without a `*instance` suffix.
    pub fn dial_host(&self) -> &str {
        let name = self.hostname.split_once('*').map_or(self.hostname.as_str(), |(host, _)| host);
        self.ip_address.as_deref().unwrap_or(name)
    }
}

/// All machines, as one source sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mdb {
    /// By name.
    pub machines: BTreeMap<String, Machine>,
}

impl Mdb {
    /// The longest JSON text accepted, in bytes.
    pub const MAX_JSON: usize = 512 * 1024 * 1024;

    /// Reads the reference's JSON: `{"Machines": [{"Hostname": …, "RequiredImage": …}, …]}`, or the bare array. Fields
    /// this program has no use for are passed over.
    ///
    /// # Errors
    /// [`BadMdb`] naming the machine that is wrong. A file is taken over whole or not at all.
    pub fn from_json(json: &[u8]) -> Result<Self, BadMdb> {
        if json.len() > Self::MAX_JSON {
            return Err(BadMdb::Json(format!("more than {} bytes", Self::MAX_JSON)));
        }
        let bare = json.trim_ascii_start().starts_with(b"[");
        let listing = if bare {
            serde_json::from_slice(json).map(|machines| Listing { machines })
        } else {
            serde_json::from_slice(json)
        };
        let records = listing.map_err(|error| BadMdb::Json(error.to_string()))?.machines;
        let mut machines = BTreeMap::new();
        for record in records {
            // The reference passes over machines without a name.
            if record.hostname.is_empty() {
                continue;
            }
            let machine = record.into_machine()?;
            let hostname = machine.hostname.clone();
            if machines.insert(hostname.clone(), machine).is_some() {
                return Err(BadMdb::Twice { hostname });
            }
        }
        Ok(Self { machines })
    }

    /// The machines as the reference's JSON.
    pub fn to_json(&self) -> String {
        let machines = self.machines.values().map(Record::from_machine).collect();
        serde_json::to_string_pretty(&Listing { machines }).expect("invariant: strings always serialise")
    }
}

#[derive(Serialize, Deserialize)]
struct Listing {
    #[serde(rename = "Machines")]
    machines: Vec<Record>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Record {
    hostname: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    ip_address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    location: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    required_image: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    planned_image: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_updates: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    owner_group: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owner_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owner_users: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

impl Record {
    fn into_machine(self) -> Result<Machine, BadMdb> {
        let image = |name: &str| match name {
            "" => Ok(None),
            name => name.parse().map(Some).map_err(|_| BadMdb::Image {
                hostname: self.hostname.clone(),
                image: name.chars().take(120).collect(),
            }),
        };
        let (required_image, planned_image) = (image(&self.required_image)?, image(&self.planned_image)?);
        let mut owner_groups = self.owner_groups;
        if !self.owner_group.is_empty() && !owner_groups.contains(&self.owner_group) {
            owner_groups.push(self.owner_group);
        }
        Ok(Machine {
            hostname: self.hostname,
            ip_address: Some(self.ip_address).filter(|address| !address.is_empty()),
            location: self.location,
            required_image,
            planned_image,
            disable_updates: self.disable_updates,
            owner_users: self.owner_users,
            owner_groups,
            tags: self.tags,
        })
    }

    fn from_machine(machine: &Machine) -> Self {
        let name = |image: &Option<ImageName>| image.as_ref().map(ToString::to_string).unwrap_or_default();
        Self {
            hostname: machine.hostname.clone(),
            ip_address: machine.ip_address.clone().unwrap_or_default(),
            location: machine.location.clone(),
            required_image: name(&machine.required_image),
            planned_image: name(&machine.planned_image),
            disable_updates: machine.disable_updates,
            owner_group: String::new(),
            owner_groups: machine.owner_groups.clone(),
            owner_users: machine.owner_users.clone(),
            tags: machine.tags.clone(),
        }
    }
}

/// A machine data base that can't be used. The one before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadMdb {
    /// Not the JSON it should be.
    #[error("not a machine data base ({{\"Machines\": [{{\"Hostname\": …}}, …]}}): {0}")]
    Json(String),
    /// An image that can't be one.
    #[error("machine {hostname:?} names an image that can't be one: {image:?}")]
    Image {
        /// Which machine.
        hostname: String,
        /// What it names.
        image: String,
    },
    /// One name, two machines.
    #[error("machine {hostname:?} is listed twice")]
    Twice {
        /// Which machine.
        hostname: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_json_is_read_and_written() {
        let json = br#"{"Machines": [
            {"Hostname": "web1", "IpAddress": "127.0.0.2", "RequiredImage": "web/1", "OwnerGroup": "ops",
             "Tags": {"tier": "front"}, "AwsMetadata": {"Region": "x"}, "DisableUpdates": true},
            {"Hostname": "db*2"}, {"Hostname": ""}]}"#;
        let mdb = Mdb::from_json(json).unwrap();
        let web = &mdb.machines["web1"];
        assert_eq!((web.dial_host(), web.disable_updates), ("127.0.0.2", true));
        assert_eq!(web.required_image.as_ref().unwrap().as_str(), "web/1");
        assert_eq!(web.owner_groups, ["ops"]);
        assert_eq!(mdb.machines["db*2"].dial_host(), "db");
        assert_eq!(Mdb::from_json(mdb.to_json().as_bytes()), Ok(mdb));
        assert_eq!(Mdb::from_json(br#"[{"Hostname": "a"}]"#).unwrap().machines.len(), 1);
    }

    #[test]
    fn a_wrong_machine_is_named() {
        let twice = Mdb::from_json(br#"[{"Hostname": "a"}, {"Hostname": "a"}]"#);
        assert_eq!(twice, Err(BadMdb::Twice { hostname: "a".into() }));
        let image = Mdb::from_json(br#"[{"Hostname": "a", "RequiredImage": "../x"}]"#);
        assert!(matches!(image, Err(BadMdb::Image { .. })), "{image:?}");
        assert!(matches!(Mdb::from_json(b"{}"), Err(BadMdb::Json(_))));
    }
}
