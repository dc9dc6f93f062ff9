//! The name of a remote method.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// One remote method, written `Service.Method` in certificates, logs and tables (`Subd.Poll`). A clone is cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method {
    text: Arc<str>,
    dot: usize,
}

impl Method {
    /// The method behind a gRPC request path: `/dominator.v1.Subd/Poll` is `Subd.Poll`. The package of a service is no part
    /// of its name in certificates; servers tell equally named ones apart by what they offer.
    ///
    /// # Errors
    /// [`BadMethod`] when the path is not `/package.Service/Method`.
    pub fn from_grpc_path(path: &str) -> Result<Self, BadMethod> {
        let bad = || BadMethod(path.into());
        let (service, name) = path.strip_prefix('/').and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        let service = service.rsplit_once('.').map_or(service, |(_, service)| service);
        Self::from_parts(service, name).ok_or_else(bad)
    }

    /// The service, as in `Subd`.
    pub fn service(&self) -> &str {
        &self.text[..self.dot]
    }

    /// The method's own name, as in `Poll`.
    pub fn name(&self) -> &str {
        &self.text[self.dot + 1..]
    }

    /// Both, as in `Subd.Poll`.
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    fn from_parts(service: &str, name: &str) -> Option<Self> {
        let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (word(service) && word(name))
            .then(|| Self { text: format!("{service}.{name}").into(), dot: service.len() })
    }
}

impl FromStr for Method {
    type Err = BadMethod;

    fn from_str(text: &str) -> Result<Self, BadMethod> {
        text.split_once('.').and_then(|(s, n)| Self::from_parts(s, n)).ok_or_else(|| BadMethod(text.into()))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Text that names no method.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a method; write Service.Method, as in Subd.Poll")]
pub struct BadMethod(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_method_without_its_package() {
        let name = |path| Method::from_grpc_path(path).unwrap().to_string();
        assert_eq!(name("/dominator.v1.Subd/Poll"), "Subd.Poll");
        assert_eq!(name("/grpc.health.v1.Health/Check"), "Health.Check");
        assert_eq!(name("/Echo/Say"), "Echo.Say");
        for bad in [
            "dominator.v1.Subd/Poll",
            "/dominator.v1./Poll",
            "/dominator.v1.Subd/Poll.x",
            "/dominator.v1.Subd/Poll/x",
            "/dominator.v1.Subd",
        ] {
            assert!(Method::from_grpc_path(bad).is_err(), "{bad}");
        }
    }
}
