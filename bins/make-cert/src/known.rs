//! Methods that some service has.

use dominator_core::auth::{Method, MethodPattern, Reach, Scope};

/// What the fleet's daemons call of each other: methods of services that are yet to come are among them, so that the
/// certificates of the documentation are made without a word.
const REQUIRED: [&str; 5] = [
    include_str!("../../dominator/required-methods"),
    include_str!("../../imageserver/required-methods"),
    include_str!("../../imaginator/required-methods"),
    include_str!("../../mdbd/required-methods"),
    include_str!("../../subd/required-methods"),
];

/// Those of `patterns` that match no method of any service: misspelt, most likely.
pub(crate) fn unknown(patterns: &[MethodPattern]) -> Vec<MethodPattern> {
    let required =
        REQUIRED.iter().flat_map(|list| list.lines()).filter_map(|line| line.parse::<Method>().ok());
    let known: Vec<Method> = dominator_rpc::auth::methods().map(|found| found.0).chain(required).collect();
    patterns.iter().filter(|pattern| !known.iter().any(|method| pattern.matches(method))).cloned().collect()
}

/// Those of `patterns` that grant something which `scope`, although it limits something, does not limit: a scope of images
/// ends at no machine, and one of tags at no image.
pub(crate) fn unlimited(patterns: &[MethodPattern], scope: &Scope) -> Vec<MethodPattern> {
    let escapes = |reach: Reach| match reach {
        Reach::ThisMachine | Reach::NamedMachines | Reach::Fleet => {
            scope.tags.is_empty() && !scope.directories.is_empty()
        }
        Reach::NamedImages => scope.directories.is_empty() && !scope.tags.is_empty(),
        Reach::Nothing => false,
    };
    let beyond: Vec<Method> = dominator_rpc::auth::methods()
        .filter(|(_, rule)| escapes(rule.reach))
        .map(|(method, _)| method)
        .collect();
    patterns.iter().filter(|pattern| beyond.iter().any(|method| pattern.matches(method))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown_of(list: &str) -> Vec<String> {
        unknown(&MethodPattern::parse_list(list).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_method_that_no_service_has_is_noticed() {
        let list = "Subd.Poll,Subd.Pol,subd.Poll,ImageServer.GetImages*,Imageserver.*,*.*,Hypervisor.*,*.GetUpdates,x.*";
        assert_eq!(
            unknown_of(list),
            ["Subd.Pol", "subd.Poll", "ImageServer.GetImages*", "Imageserver.*", "x.*"]
        );
    }

    #[test]
    fn what_the_daemons_require_and_the_roles_of_the_documentation_are_known() {
        for list in REQUIRED {
            assert!(!list.trim().is_empty());
            assert_eq!(unknown_of(list), [""; 0]);
        }
        let roles = "ImageServer.AddImage,ImageServer.CheckImage,ObjectServer.AddObjects,ImageServer.GetImage,\
                     ObjectServer.CheckObjects,Subd.Poll,ImageServer.*,Dominator.*,*.*";
        assert_eq!(unknown_of(roles), [""; 0]);
    }

    #[test]
    fn what_a_scope_does_not_limit_is_noticed() {
        let patterns = MethodPattern::parse_list("Subd.*,ImageServer.AddImage,*.*,ObjectServer.*").unwrap();
        let unlimited = |tags: &[&str], directories: &[&str]| -> Vec<String> {
            let tags = tags.iter().map(|key| ((*key).into(), ["x".into()].into())).collect();
            let directories = directories.iter().map(ToString::to_string).collect();
            let found = super::unlimited(&patterns, &Scope { tags, directories });
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(unlimited(&[], &["base"]), ["Subd.*", "*.*"]);
        assert_eq!(unlimited(&["tier"], &[]), ["ImageServer.AddImage", "*.*"]);
        assert_eq!(unlimited(&["tier"], &["base"]), [""; 0]);
        assert_eq!(unlimited(&[], &[]), [""; 0], "who asks for no limit knows it");
    }
}
