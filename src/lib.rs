//! mingchu
pub mod base;
pub mod capture;
pub mod decode;
pub mod detect;
pub mod evidence;
pub mod rules;
pub mod track;
pub mod uplink;
