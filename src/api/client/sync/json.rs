//! A JSON object as it comes to be, with places where pages go that are yet to be asked for.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Serialize;

use platform::Pieces;

use crate::Body;

#[derive(Default)]
pub(super) struct Json {
    /// What stands before `text`.
    before: Vec<Part>,
    text: Vec<u8>,
    /// Whether a comma has to go before the next field.
    comma: bool,
}

enum Part {
    Text(Bytes),
    Pages(Pieces),
}

impl Json {
    /// What goes on in an object that was begun elsewhere; `is_first`: that has no field yet.
    pub(super) fn within(is_first: bool) -> Self {
        Self { comma: !is_first, ..Self::default() }
    }

    pub(super) fn open(&mut self) {
        self.text.push(b'{');
        self.comma = false;
    }

    pub(super) fn close(&mut self) {
        self.text.push(b'}');
        self.comma = true;
    }

    /// The name of a field, whose value is to follow.
    pub(super) fn name(&mut self, name: &str) -> serde_json::Result<()> {
        self.separate();
        serde_json::to_writer(&mut self.text, name)?;
        self.text.push(b':');
        Ok(())
    }

    pub(super) fn field(&mut self, name: &str, value: &impl Serialize) -> serde_json::Result<()> {
        self.name(name)?;
        serde_json::to_writer(&mut self.text, value)?;
        self.comma = true;
        Ok(())
    }

    /// All fields of an object that is JSON already.
    pub(super) fn fields(&mut self, object: &str) {
        let fields = object.strip_prefix('{').and_then(|object| object.strip_suffix('}')).unwrap_or_default();
        if !fields.is_empty() {
            self.separate();
            self.text.extend(fields.as_bytes());
            self.comma = true;
        }
    }

    /// Fields whose last one begins with `begin`, and ends with these pages.
    pub(super) fn fields_in_pages(&mut self, begin: &str, pages: Pieces) {
        self.separate();
        self.text.extend(begin.as_bytes());
        self.before.push(Part::Text(std::mem::take(&mut self.text).into()));
        self.before.push(Part::Pages(pages));
        self.comma = true;
    }

    fn separate(&mut self) {
        if std::mem::take(&mut self.comma) {
            self.text.push(b',');
        }
    }

    /// The text, with the pages in their places.
    pub(super) fn pieces(self) -> Pieces {
        let parts = self.before.into_iter().chain([Part::Text(self.text.into())]);
        Box::pin(stream::iter(parts).flat_map(|part| match part {
            Part::Text(text) => stream::iter([Ok(text)]).boxed_local(),
            Part::Pages(pages) => pages,
        }))
    }
}

impl From<Json> for Body {
    fn from(json: Json) -> Self {
        if json.before.is_empty() { Body::Whole(json.text.into()) } else { Body::pieces(json.pieces()) }
    }
}
