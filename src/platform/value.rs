use crate::Fault;

/// The largest integer a database keeps exactly on every host: integers are JavaScript numbers on Workers.
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

/// One column of one row, or one bound parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    /// At most [`INTEGER_MAX`] in size.
    Integer(i64),
    Text(String),
    /// Actors' databases only; metadata keeps to text and integers, which every database spells alike.
    Blob(Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}
impl From<i64> for Value {
    fn from(integer: i64) -> Self {
        Value::Integer(integer)
    }
}
impl From<u64> for Value {
    /// Positions and times stay below 2^53, see [`INTEGER_MAX`]; larger ones saturate and are refused on binding.
    fn from(integer: u64) -> Self {
        Value::Integer(i64::try_from(integer).unwrap_or(i64::MAX))
    }
}
impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Integer(flag.into())
    }
}
impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Blob(bytes)
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// One row of an answer. Columns are taken by their place in the SELECT list.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(pub Vec<Value>);

impl Row {
    fn take(&mut self, column: usize) -> Result<Value, Fault> {
        let value = self.0.get_mut(column).ok_or_else(|| Fault::new(format!("row has no column {column}")))?;
        Ok(std::mem::replace(value, Value::Null))
    }

    pub fn text(&mut self, column: usize) -> Result<String, Fault> {
        match self.take(column)? {
            Value::Text(text) => Ok(text),
            other => Err(mismatch(column, "text", &other)),
        }
    }

    pub fn text_or_null(&mut self, column: usize) -> Result<Option<String>, Fault> {
        match self.take(column)? {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            other => Err(mismatch(column, "text or null", &other)),
        }
    }

    pub fn integer(&mut self, column: usize) -> Result<i64, Fault> {
        match self.take(column)? {
            Value::Integer(integer) => Ok(integer),
            other => Err(mismatch(column, "integer", &other)),
        }
    }

    pub fn integer_or_null(&mut self, column: usize) -> Result<Option<i64>, Fault> {
        match self.take(column)? {
            Value::Null => Ok(None),
            Value::Integer(integer) => Ok(Some(integer)),
            other => Err(mismatch(column, "integer or null", &other)),
        }
    }

    /// A position, a time or a count: an integer that is not negative.
    pub fn unsigned(&mut self, column: usize) -> Result<u64, Fault> {
        u64::try_from(self.integer(column)?).map_err(|_| Fault::new(format!("column {column} is negative")))
    }

    pub fn unsigned_or_null(&mut self, column: usize) -> Result<Option<u64>, Fault> {
        self.integer_or_null(column)?
            .map(|integer| u64::try_from(integer).map_err(|_| Fault::new(format!("column {column} is negative"))))
            .transpose()
    }

    pub fn flag(&mut self, column: usize) -> Result<bool, Fault> {
        Ok(self.integer(column)? != 0)
    }

    pub fn blob(&mut self, column: usize) -> Result<Vec<u8>, Fault> {
        match self.take(column)? {
            Value::Blob(bytes) => Ok(bytes),
            other => Err(mismatch(column, "blob", &other)),
        }
    }
}

fn mismatch(column: usize, wanted: &str, found: &Value) -> Fault {
    let found = match found {
        Value::Null => "null",
        Value::Integer(_) => "an integer",
        Value::Text(_) => "text",
        Value::Blob(_) => "a blob",
    };
    Fault::new(format!("column {column} should be {wanted} and is {found}"))
}
