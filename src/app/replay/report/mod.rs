//! tmp
mod page;
mod plot;
mod svg;
pub use plot::file as plot;
