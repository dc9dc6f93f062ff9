use std::net::IpAddr;

use clap::ValueEnum;
use dominator_daemon::value::HostPort;
use dominator_rpc::client::Compression;

/// When file contents are compressed on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    /// Unless the server is this machine
    Auto,
    /// To any server
    Always,
    /// To none
    Never,
}

impl Compress {
    /// How to talk to `server`.
    pub(crate) fn with(self, server: &HostPort) -> Compression {
        let server = server.to_string();
        let host = server.rsplit_once(':').map_or(server.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        match self {
            Self::Always => Compression::Zstd,
            Self::Auto if !is_here => Compression::Zstd,
            Self::Auto | Self::Never => Compression::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_compressed_on_a_network_and_not_on_the_machine_itself() {
        for (server, auto) in [
            ("localhost:6971", Compression::Never),
            ("127.0.0.2:6971", Compression::Never),
            ("[::1]:6971", Compression::Never),
            ("images.example:6971", Compression::Zstd),
            ("10.0.0.1:6971", Compression::Zstd),
            ("[2001:db8::1]:6971", Compression::Zstd),
        ] {
            let server = server.parse().unwrap();
            assert_eq!(Compress::Auto.with(&server), auto, "{server}");
            assert_eq!(Compress::Always.with(&server), Compression::Zstd);
            assert_eq!(Compress::Never.with(&server), Compression::Never);
        }
    }
}
