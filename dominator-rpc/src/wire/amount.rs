use dominator_core::port::Amount;

use crate::v1;

/// How many objects and bytes.
pub(crate) fn amount(amount: Amount) -> v1::ObjectAmount {
    v1::ObjectAmount { objects: amount.objects, bytes: amount.bytes }
}

/// How many objects and bytes; none when nothing is said.
pub(crate) fn amount_from(amount: Option<v1::ObjectAmount>) -> Amount {
    amount.map_or_else(Amount::default, |amount| Amount { objects: amount.objects, bytes: amount.bytes })
}
