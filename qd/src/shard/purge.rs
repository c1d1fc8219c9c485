//! TODO (issue 4 in progress)

use qd_protocol::ErrorCode;

use super::command::Purge;
use super::{Outcome, Step};
use crate::store::Result;

impl Step<'_, '_> {
    pub(super) fn purge(&mut self, _: &Purge) -> Result<Outcome> {
        Ok(ErrorCode::Internal.refuse("not yet").into())
    }
}
