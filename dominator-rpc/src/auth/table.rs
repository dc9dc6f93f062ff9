use dominator_core::auth::Reach::{Fleet, NamedImages, NamedMachines, Nothing, ThisMachine};
use dominator_core::auth::{Access, Method, Reach, Rule};

const READS: Rule = Rule::READS;
const CHANGES: Rule = Rule::CHANGES;
const PUBLIC_READS: Rule = Rule::READS.open_to(Access::Public);
const PUBLIC_CHANGES: Rule = Rule::CHANGES.open_to(Access::Public);

/// Every method with its rule. What is not here is denied to everybody.
///
/// OFF-SPEC: the reference lets every identity poll agents; here a certificate must list `Subd.Poll`, as the answer
/// tells what is installed on a machine.
const TABLE: [(&str, Rule, Reach); 56] = [
    // Public, as in the reference, are these three: the handler asks whether the machine is the caller's.
    // OFF-SPEC: the reference's root without a certificate is nobody here.
    ("Dominator.ClearSafetyShutoff", PUBLIC_CHANGES, NamedMachines),
    ("Dominator.DisableUpdates", CHANGES, Fleet),
    ("Dominator.EnableUpdates", CHANGES, Fleet),
    ("Dominator.FastUpdate", PUBLIC_CHANGES, NamedMachines),
    ("Dominator.ForceDisruptiveUpdate", PUBLIC_CHANGES, NamedMachines),
    ("Dominator.GetInfoForSubs", PUBLIC_READS, Fleet),
    ("Dominator.GetUpdatesState", PUBLIC_READS, Fleet),
    ("Dominator.ListSubs", PUBLIC_READS, Fleet),
    // Who keeps what its master has lost gives it up.
    ("ImageServer.AcceptDeletions", CHANGES, NamedImages),
    ("ImageServer.AddImage", CHANGES, NamedImages),
    // Power only: who may call it says who made an image.
    ("ImageServer.AddImageTrusted", CHANGES, NamedImages),
    // Public, as in the reference: the handler asks whether the image is the caller's, and how far off he may put its end.
    ("ImageServer.ChangeImageExpiration", PUBLIC_CHANGES, NamedImages),
    ("ImageServer.CheckDirectory", PUBLIC_READS, NamedImages),
    ("ImageServer.CheckImage", PUBLIC_READS, NamedImages),
    // Public, as in the reference: the handler asks for the group above, or for both groups.
    ("ImageServer.ChownDirectory", PUBLIC_CHANGES, NamedImages),
    ("ImageServer.DeleteDirectory", CHANGES, NamedImages),
    // Public, as in the reference: the handler asks whether the image or its directory is the caller's.
    ("ImageServer.DeleteImage", PUBLIC_CHANGES, NamedImages),
    // What no image needs is nobody's.
    ("ImageServer.DeleteUnreferencedObjects", CHANGES, Nothing),
    // Names of images are no secret, nor what they are selected by: scopes limit powers, and this needs none.
    ("ImageServer.FindLatestImage", PUBLIC_READS, Nothing),
    ("ImageServer.GetFilteredImageUpdates", PUBLIC_READS, Nothing),
    ("ImageServer.GetImage", PUBLIC_READS, NamedImages),
    ("ImageServer.GetImageExpiration", PUBLIC_READS, NamedImages),
    ("ImageServer.GetImageStates", PUBLIC_READS, NamedImages),
    ("ImageServer.GetImageUpdates", PUBLIC_READS, Nothing),
    ("ImageServer.GetObjectStatisticsForImages", PUBLIC_READS, NamedImages),
    ("ImageServer.GetReplicationMaster", PUBLIC_READS, Nothing),
    ("ImageServer.ListDirectories", PUBLIC_READS, Nothing),
    // Names of images are no secret: scopes limit powers, and this needs none.
    ("ImageServer.ListImages", PUBLIC_READS, Nothing),
    ("ImageServer.ListSelectedImages", PUBLIC_READS, Nothing),
    // Nor what no image needs.
    ("ImageServer.ListUnreferencedObjects", PUBLIC_READS, Nothing),
    // OFF-SPEC: the reference means it for the group that owns the directory above, but lets only those call it whose
    // certificate lists it. Here the handler asks for that group.
    ("ImageServer.MakeDirectory", PUBLIC_CHANGES, NamedImages),
    ("Introspection.ListMethods", PUBLIC_READS, Nothing),
    // What a log says of a machine is for those who may look after it.
    ("Logger.GetLevel", READS, ThisMachine),
    ("Logger.Print", CHANGES, ThisMachine),
    ("Logger.SetDebugLevel", CHANGES, ThisMachine),
    ("Logger.Watch", READS, ThisMachine),
    // Objects bear no names and do nothing until an image or a plan names them.
    ("ObjectServer.AddObjects", CHANGES, Nothing),
    ("ObjectServer.CheckObjects", READS, Nothing),
    ("ObjectServer.GetObjects", READS, Nothing),
    ("Subd.BoostCpuLimit", CHANGES, ThisMachine),
    ("Subd.BoostScanLimit", CHANGES, ThisMachine),
    ("Subd.Cleanup", CHANGES, ThisMachine),
    ("Subd.Fetch", CHANGES, ThisMachine),
    ("Subd.Forgive", CHANGES, ThisMachine),
    ("Subd.GetConfiguration", PUBLIC_READS, ThisMachine),
    ("Subd.GetDirectories", READS, ThisMachine),
    ("Subd.GetFiles", READS, ThisMachine),
    ("Subd.GetHistory", READS, ThisMachine),
    // Keeps others off.
    ("Subd.Lock", CHANGES, ThisMachine),
    ("Subd.Poll", READS, ThisMachine),
    ("Subd.RemoveConflicts", CHANGES, ThisMachine),
    ("Subd.RestartService", CHANGES, ThisMachine),
    ("Subd.SetConfiguration", CHANGES, ThisMachine),
    // What is looked at is what can be changed.
    ("Subd.SetView", CHANGES, ThisMachine),
    ("Subd.Undo", CHANGES, ThisMachine),
    ("Subd.Update", CHANGES, ThisMachine),
];

/// What a server demands of callers of `method`, and what a call comes to; nothing when there is no such method.
pub fn rule(method: &Method) -> Option<Rule> {
    methods().find(|(known, _)| known == method).map(|(_, rule)| rule)
}

/// Every method of the protocol with its rule, in order.
pub fn methods() -> impl Iterator<Item = (Method, Rule)> {
    TABLE.iter().map(|(name, rule, reach)| {
        (name.parse().expect("invariant: the table holds names"), rule.reaching(*reach))
    })
}

/// The gRPC path of a method of the protocol.
pub(crate) fn path(method: &Method) -> String {
    format!("/dominator.v1.{}/{}", method.service(), method.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_parses() {
        let names: Vec<_> = methods().map(|(method, _)| method.to_string()).collect();
        assert!(names.is_sorted());
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn the_table_holds_every_call_of_the_protocol_and_no_other() {
        let protocol = [
            include_str!("../../proto/dominator/v1/dominator.proto"),
            include_str!("../../proto/dominator/v1/image_server.proto"),
            include_str!("../../proto/dominator/v1/introspection.proto"),
            include_str!("../../proto/dominator/v1/logger.proto"),
            include_str!("../../proto/dominator/v1/object_server.proto"),
            include_str!("../../proto/dominator/v1/replication.proto"),
            include_str!("../../proto/dominator/v1/subd.proto"),
        ];
        let (mut service, mut calls) = ("", std::collections::BTreeSet::new());
        for line in protocol.iter().flat_map(|text| text.lines()).map(str::trim) {
            let word = |keyword| line.strip_prefix(keyword)?.split([' ', '(']).next();
            service = word("service ").unwrap_or(service);
            calls.extend(word("rpc ").map(|call| format!("{service}.{call}")));
        }
        assert_eq!(calls, methods().map(|(method, _)| method.to_string()).collect());
    }
}
