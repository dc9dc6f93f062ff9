use dominator_core::authorise::{Access, Method};

/// Every method with what it demands. What is not here is denied to everybody.
///
/// OFF-SPEC: the reference lets every identity poll agents; here a certificate must list `Subd.Poll`, as the answer
/// tells what is installed on a machine.
const TABLE: [(&str, Access); 26] = [
    // OFF-SPEC: the reference lets the owners of a machine do it, too.
    ("Dominator.ClearSafetyShutoff", Access::Listed),
    ("Dominator.DisableUpdates", Access::Listed),
    ("Dominator.EnableUpdates", Access::Listed),
    ("Dominator.GetInfoForSubs", Access::Public),
    ("Dominator.GetUpdatesState", Access::Public),
    ("Dominator.ListSubs", Access::Public),
    ("ImageServer.AddImage", Access::Listed),
    ("ImageServer.CheckImage", Access::Public),
    // Public, as in the reference: the handler asks whether the caller made or owns the image.
    ("ImageServer.DeleteImage", Access::Public),
    ("ImageServer.GetImage", Access::Public),
    ("ImageServer.GetImageExpiration", Access::Public),
    ("ImageServer.ListImages", Access::Public),
    ("Introspection.ListMethods", Access::Public),
    ("ObjectServer.AddObjects", Access::Listed),
    ("ObjectServer.CheckObjects", Access::Listed),
    ("ObjectServer.GetObjects", Access::Listed),
    ("Subd.BoostCpuLimit", Access::Listed),
    ("Subd.BoostScanLimit", Access::Listed),
    ("Subd.Cleanup", Access::Listed),
    ("Subd.Fetch", Access::Listed),
    ("Subd.GetConfiguration", Access::Public),
    ("Subd.GetDirectories", Access::Listed),
    ("Subd.Poll", Access::Listed),
    ("Subd.SetConfiguration", Access::Listed),
    ("Subd.SetView", Access::Listed),
    ("Subd.Update", Access::Listed),
];

/// What a server demands of callers of `method`; nothing when there is no such method.
pub fn access(method: &Method) -> Option<Access> {
    methods().find(|(known, _)| known == method).map(|(_, access)| access)
}

/// Every method of the protocol with what it demands, in order.
pub fn methods() -> impl Iterator<Item = (Method, Access)> {
    let parsed =
        |(name, access): &(&str, Access)| (name.parse().expect("invariant: the table holds names"), *access);
    TABLE.iter().map(parsed)
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
            include_str!("../../proto/dominator/v1/object_server.proto"),
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
