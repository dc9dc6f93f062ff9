//! A machine under control: an agent that can be made to fail, and a controller in virtual time.
#![allow(dead_code, unused_imports)]

mod machine;
mod world;

pub(crate) use machine::{Fault, Machine, Network};
pub(crate) use world::{IMAGE, World};
