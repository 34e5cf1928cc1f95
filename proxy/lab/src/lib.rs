#![doc = include_str!("../README.md")]

pub mod face;
pub mod guest;
pub mod world;
