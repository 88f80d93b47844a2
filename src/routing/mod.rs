//! (to be built)

pub mod subscription;

pub use subscription::{Binding, BindingError};
