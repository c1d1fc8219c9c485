//! TODO (issue 4 in progress)

use qd_protocol::ErrorCode;

use super::command::Transact;
use super::{Outcome, Step};
use crate::store::Result;

impl Step<'_, '_> {
    pub(super) fn transact(&mut self, _: &Transact) -> Result<Outcome> {
        Ok(ErrorCode::Internal.refuse("not yet").into())
    }
}
