//! Relations that our users may not make. Those of other servers are in the log as they came, and ignored where they
//! break the rules. Spec: "Validation of `m.thread` relationships", "Avoiding duplicate annotations".

use domain::{
    Refusal,
    event::{Draft, Relation},
};
use platform::Sql;

use super::store;
use crate::Error;

/// Refused: `Unknown` for a thread that begins with an event which is itself related to one, `DuplicateAnnotation`. An
/// event that is not held yet may be related to.
pub(super) fn check_relation(sql: &dyn Sql, draft: &Draft) -> Result<(), Error> {
    let Some(relation) = Relation::of(&draft.content) else { return Ok(()) };
    match relation.rel_type.as_str() {
        "m.thread" => {
            let root = store::log::by_id(sql, relation.event_id.as_str())?;
            if root.is_some_and(|root| Relation::of(root.pdu.content()).is_some()) {
                let sentence = "A thread cannot begin with an event that relates to another one";
                return Err(Refusal::Unknown(sentence.to_owned()).into());
            }
        }
        "m.annotation" => {
            let event_type = draft.event_type.to_string();
            if let Some(key) = relation.key()
                && store::relations::is_annotated(sql, &relation.event_id, &draft.sender, &event_type, key)?
            {
                return Err(Refusal::DuplicateAnnotation.into());
            }
        }
        _ => {}
    }
    Ok(())
}
