use domain::{
    Pdu,
    event::{self, EventFields, Unsigned},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The form in which a client wants events. Spec: "Filtering", `event_format` and `event_fields`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventFormat {
    /// As servers send events to each other, not as clients know them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub federation: bool,
    /// Paths of the properties wanted; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

impl EventFormat {
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// How events are written for one who asks.
#[derive(Debug, Default)]
pub(super) struct Writing {
    federation: bool,
    fields: Option<EventFields>,
}

impl Writing {
    pub(super) fn of(format: &EventFormat) -> Self {
        let fields = (!format.fields.is_empty()).then(|| EventFields::of(format.fields.iter().map(String::as_str)));
        Self { federation: format.federation, fields }
    }

    pub(super) fn write(&self, pdu: &Pdu, unsigned: &Unsigned, with_room_id: bool) -> Box<RawValue> {
        let whole = if self.federation {
            event::federation_json(pdu, unsigned)
        } else {
            event::client_json(pdu, unsigned, with_room_id)
        };
        match &self.fields {
            Some(fields) => fields.select(&whole),
            None => whole,
        }
    }
}
