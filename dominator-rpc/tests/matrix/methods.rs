//! Every method of the protocol, one by one.

use dominator_core::auth::Access::{self, Listed, Public};
use dominator_core::auth::Effect::{self, Changes, Reads};
use dominator_rpc::auth::methods;
use tonic::Code;

use crate::journal::Journal;
use crate::people::World;
use crate::run::{asked, raw};
use crate::services::{Service, everything, path};
use crate::support::serve;

/// Open to everybody, for machines that are theirs.
const OWNED: [&str; 3] =
    ["Dominator.ClearSafetyShutoff", "Dominator.FastUpdate", "Dominator.ForceDisruptiveUpdate"];

/// What each method demands of its callers, whether it changes anything, and what it answers those who may call it to an
/// empty message.
const ANSWERS: &[(&str, Access, Effect, Code)] = &[
    ("Dominator.ClearSafetyShutoff", Public, Changes, Code::Ok),
    ("Dominator.DisableUpdates", Listed, Changes, Code::InvalidArgument),
    ("Dominator.EnableUpdates", Listed, Changes, Code::Ok),
    ("Dominator.FastUpdate", Public, Changes, Code::NotFound),
    ("Dominator.ForceDisruptiveUpdate", Public, Changes, Code::Ok),
    ("Dominator.GetInfoForSubs", Public, Reads, Code::Ok),
    ("Dominator.GetUpdatesState", Public, Reads, Code::Ok),
    ("Dominator.ListSubs", Public, Reads, Code::Ok),
    ("ImageServer.AcceptDeletions", Listed, Changes, Code::InvalidArgument),
    ("ImageServer.AddImage", Listed, Changes, Code::InvalidArgument),
    ("ImageServer.AddImageTrusted", Listed, Changes, Code::InvalidArgument),
    ("ImageServer.ChangeImageExpiration", Public, Changes, Code::InvalidArgument),
    ("ImageServer.CheckDirectory", Public, Reads, Code::InvalidArgument),
    ("ImageServer.CheckImage", Public, Reads, Code::InvalidArgument),
    ("ImageServer.ChownDirectory", Public, Changes, Code::InvalidArgument),
    ("ImageServer.DeleteDirectory", Listed, Changes, Code::InvalidArgument),
    ("ImageServer.DeleteImage", Public, Changes, Code::InvalidArgument),
    ("ImageServer.DeleteUnreferencedObjects", Listed, Changes, Code::Unimplemented),
    ("ImageServer.FindLatestImage", Public, Reads, Code::Ok),
    ("ImageServer.GetFilteredImageUpdates", Public, Reads, Code::Ok),
    ("ImageServer.GetImage", Public, Reads, Code::InvalidArgument),
    ("ImageServer.GetImageExpiration", Public, Reads, Code::InvalidArgument),
    ("ImageServer.GetImageStates", Public, Reads, Code::InvalidArgument),
    ("ImageServer.GetImageUpdates", Public, Reads, Code::Ok),
    ("ImageServer.GetObjectStatisticsForImages", Public, Reads, Code::InvalidArgument),
    ("ImageServer.GetReplicationMaster", Public, Reads, Code::Ok),
    ("ImageServer.ListDirectories", Public, Reads, Code::Ok),
    ("ImageServer.ListImages", Public, Reads, Code::Ok),
    ("ImageServer.ListSelectedImages", Public, Reads, Code::Ok),
    ("ImageServer.ListUnreferencedObjects", Public, Reads, Code::Unimplemented),
    ("ImageServer.MakeDirectory", Public, Changes, Code::InvalidArgument),
    ("Introspection.ListMethods", Public, Reads, Code::Ok),
    ("Logger.GetLevel", Listed, Reads, Code::Ok),
    ("Logger.Print", Listed, Changes, Code::InvalidArgument),
    ("Logger.SetDebugLevel", Listed, Changes, Code::InvalidArgument),
    ("Logger.Watch", Listed, Reads, Code::Ok),
    ("ObjectServer.AddObjects", Listed, Changes, Code::InvalidArgument),
    ("ObjectServer.CheckObjects", Listed, Reads, Code::Ok),
    ("ObjectServer.GetObjects", Listed, Reads, Code::Ok),
    ("Subd.BoostCpuLimit", Listed, Changes, Code::Ok),
    ("Subd.BoostScanLimit", Listed, Changes, Code::Ok),
    ("Subd.Cleanup", Listed, Changes, Code::Ok),
    ("Subd.Fetch", Listed, Changes, Code::InvalidArgument),
    ("Subd.Forgive", Listed, Changes, Code::Unimplemented),
    ("Subd.GetConfiguration", Public, Reads, Code::Ok),
    ("Subd.GetDirectories", Listed, Reads, Code::Ok),
    ("Subd.GetFiles", Listed, Reads, Code::Unimplemented),
    ("Subd.GetHistory", Listed, Reads, Code::Unimplemented),
    ("Subd.Lock", Listed, Changes, Code::Unimplemented),
    ("Subd.Poll", Listed, Reads, Code::Ok),
    ("Subd.RemoveConflicts", Listed, Changes, Code::Unimplemented),
    ("Subd.RestartService", Listed, Changes, Code::InvalidArgument),
    ("Subd.SetConfiguration", Listed, Changes, Code::Ok),
    ("Subd.SetView", Listed, Changes, Code::InvalidArgument),
    ("Subd.Undo", Listed, Changes, Code::Unimplemented),
    ("Subd.Update", Listed, Changes, Code::InvalidArgument),
];

#[tokio::test]
async fn every_method_is_open_to_whoever_has_exactly_it_and_closed_to_whoever_has_all_others() {
    let (world, journal) = (World::new(), Journal::open());
    let all: Vec<String> = methods().map(|(method, _)| method.to_string()).collect();
    let mut found = Vec::new();
    for (method, rule) in methods().map(|(method, rule)| (method.to_string(), rule)) {
        // Each has a server of its own, as none writes a line for every denial when there are many.
        let server = serve(world.tls(&world.member("subd", "")), everything()).await;
        let others: Vec<&str> = all.iter().filter(|other| **other != method).map(String::as_str).collect();
        let others =
            raw(&world, Service::Subd, &server, &world.member("alice", &others.join(","))).await.unwrap();
        let only = raw(&world, Service::Subd, &server, &world.member("alice", &method)).await.unwrap();
        let without = asked(&others, &method).await;
        let with = asked(&only, &method).await.map_or_else(|(code, _)| code, |()| Code::Ok);
        let text = format!(
            "access to method denied: \"alice\" may not call {method}; its certificate does not list it"
        );
        match rule.access {
            Access::Listed => {
                assert_eq!(without, Err((Code::PermissionDenied, text.clone())));
                let logged = format!("WARN {text} peer=… user=alice serial=… path={}", path(&method));
                assert_eq!(journal.take(1).await, [logged]);
            }
            Access::Public if OWNED.contains(&method.as_str()) => {
                let text = format!(
                    "access to method denied: \"alice\" does not own machine \"\", and has no power to call {method} for it"
                );
                assert_eq!(without, Err((Code::PermissionDenied, text.clone())));
                let logged = format!("WARN {text} peer=… user=alice serial=… path={}", path(&method));
                assert_eq!(journal.take(1).await, [logged]);
            }
            Access::Public | Access::Unauthenticated => {
                assert_eq!(without.map_or_else(|(code, _)| code, |()| Code::Ok), with, "{method}");
                assert_eq!(journal.take(0).await, Vec::<String>::new(), "{method}");
            }
        }
        found.push((method, rule.access, rule.effect, with));
        server.stop().await;
    }
    let expected =
        ANSWERS.iter().map(|(method, access, effect, code)| (method.to_string(), *access, *effect, *code));
    assert_eq!(found, expected.collect::<Vec<_>>());
}
