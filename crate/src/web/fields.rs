//! Reading and building plain JavaScript objects by hand: a few fields each, so smaller than a serializer.

use js_sys::{Array, Object, Reflect};
use wasm_bindgen::{JsCast, JsValue};

/// A JavaScript value read field by field; anything missing or of another type is `None`.
pub struct Fields(JsValue);

impl Fields {
    pub fn new(value: JsValue) -> Self {
        Self(value)
    }

    /// Parses JSON text; `None` where it is none.
    pub fn parse(json: &[u8]) -> Option<Self> {
        js_sys::JSON::parse(std::str::from_utf8(json).ok()?).ok().map(Self)
    }

    /// The field, where it is neither undefined nor null.
    pub fn value(&self, name: &str) -> Option<JsValue> {
        let value = Reflect::get(&self.0, &name.into()).ok()?;
        (!value.is_undefined() && !value.is_null()).then_some(value)
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.value(name)?.as_string()
    }

    pub fn number(&self, name: &str) -> Option<f64> {
        self.value(name)?.as_f64()
    }

    /// A whole number from 0 to 2^53.
    pub fn whole(&self, name: &str) -> Option<u64> {
        whole(self.number(name)?)
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        self.value(name)?.as_bool()
    }

    pub fn object(&self, name: &str) -> Option<Fields> {
        self.value(name).map(Fields)
    }

    pub fn list(&self, name: &str) -> Option<Vec<JsValue>> {
        self.value(name)?.dyn_into::<Array>().ok().map(|array| array.to_vec())
    }
}

/// `value` as a whole number from 0 to 2^53.
pub fn whole(value: f64) -> Option<u64> {
    ((0.0..=9_007_199_254_740_992.0).contains(&value) && value.fract() == 0.0).then_some(value as u64)
}

/// A plain object being built.
pub struct Record(Object);

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}

impl Record {
    pub fn new() -> Self {
        Self(Object::new())
    }

    pub fn with(self, name: &str, value: impl Into<JsValue>) -> Self {
        // Setting a field of a plain, unfrozen object cannot fail.
        let _ = Reflect::set(&self.0, &name.into(), &value.into());
        self
    }

    pub fn done(self) -> Object {
        self.0
    }
}

impl From<Record> for JsValue {
    fn from(record: Record) -> JsValue {
        record.0.into()
    }
}
