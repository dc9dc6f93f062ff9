//! Which image is meant by a name, whatever of it may change.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use dominator_core::filter::Filter;
use dominator_core::image::{Image, ImageState};
use dominator_core::object::ObjectId;
use dominator_core::tree::Tree;
use dominator_core::trigger::Triggers;
use dominator_core::view::ViewId;

fn example() -> Image {
    Image::decode(include_bytes!("golden/image.bin")).unwrap()
}

#[test]
fn an_image_stays_itself_when_expiry_and_owners_change_and_in_nothing_else() {
    let image = example();
    let mutable = Image {
        expires_at: None,
        owner_users: vec!["carol".into()],
        owner_groups: Vec::new(),
        ..image.clone()
    };
    assert_eq!(mutable.lasting_id(), image.lasting_id());
    assert_ne!(mutable.id(), image.id());
    let others = [
        Image { created_by: "mallory".into(), ..image.clone() },
        Image { created_on: image.created_on + 1, ..image.clone() },
        Image { filter: Filter::Sparse, ..image.clone() },
        Image { triggers: Triggers::default(), ..image.clone() },
        Image {
            tree: Tree { view: ViewId(ObjectId::of(b"another")), ..image.tree.clone() },
            ..image.clone()
        },
    ];
    for other in others {
        assert_ne!(other.lasting_id(), image.lasting_id(), "{other:?}");
    }
    let state = ImageState::of(&image);
    assert!(matches!(state, ImageState::Present { lasting, .. } if lasting == image.lasting_id()));
}

/// Tombstones keep it: one that was written years ago must still tell which image was there.
#[test]
fn the_lasting_id_is_the_one_in_the_manual() {
    let manual = include_str!("../../docs/formats/image.md");
    let id = example().lasting_id().to_string();
    assert!(manual.contains(&format!("`{id}`")), "{id}");
}
