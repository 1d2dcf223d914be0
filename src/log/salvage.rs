//! Salvage.
use crate::error::Result;
/// x
#[derive(Clone, Debug)]
pub struct SalvageReport {}
/// x
pub fn salvage(_directory: impl AsRef<std::path::Path>) -> Result<SalvageReport> {
    Ok(SalvageReport {})
}
