//! JSON as every reader of an image understands it.
//!
//! Go's `encoding/json`, which registries, Docker and containerd use, matches object keys without regard to case (and
//! with Unicode simple folding: `ſ` is `s`, `K` is `k`), and the last match wins. serde matches keys exactly. A document with
//! both `layers` and `Layers` would therefore mean one thing to saver and another to the registry that serves it.
//! [`from_slice`] refuses such documents; serde already refuses a known key that occurs twice.

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IgnoredAny, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use std::borrow::Cow;
use std::fmt;

/// Reads a document, refusing keys that other readers would take for a known field.
///
/// # Errors
/// What serde_json reports, and each key that differs from a field of its object only in case or folding.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(Strict { inner: &mut json, fields: &[] })?;
    json.end()?;
    Ok(value)
}

/// As [`from_slice`], of a value that was parsed before.
///
/// # Errors
/// As [`from_slice`].
pub fn from_value<T: DeserializeOwned>(value: &serde_json::Value) -> serde_json::Result<T> {
    T::deserialize(Strict { inner: value, fields: &[] })
}

/// A field whose null means that it is absent, as Go reads it.
///
/// # Errors
/// What `T` reports.
pub fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// An object whose values are all strings (or null), checked and dropped: fields that saver has no use for and that other
/// readers unmarshal into `map[string]string`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StringMap;

/// As [`StringMap`], for an array of strings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StringList;

/// As [`StringMap`], for bytes in base64.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Base64;

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = StringMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMap, A::Error> {
                while map.next_entry::<IgnoredAny, Option<Text>>()?.is_some() {}
                Ok(StringMap)
            }
        }
        from.deserialize_map(Strings)
    }
}

impl<'de> Deserialize<'de> for StringList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = StringList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of strings")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<StringList, A::Error> {
                while seq.next_element::<Option<Text>>()?.is_some() {}
                Ok(StringList)
            }
        }
        from.deserialize_seq(Strings)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use base64::Engine;
        let text = String::deserialize(from)?;
        match base64::engine::general_purpose::STANDARD.decode(text) {
            Ok(_) => Ok(Self),
            Err(_) => Err(D::Error::custom("data that is not base64")),
        }
    }
}

/// A string, checked and dropped.
struct Text;

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, _: &str) -> Result<Text, E> {
                Ok(Text)
            }
        }
        from.deserialize_str(Any)
    }
}

/// The field of `fields` that Go would take `key` for though it is written differently.
fn folded<'f>(key: &str, fields: &[&'f str]) -> Option<&'f str> {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    fields.iter().copied().find(|field| *field != key && field.chars().map(fold).eq(key.chars().map(fold)))
}

/// A deserializer, visitor or seed that checks the keys of every struct below it against the struct's `fields`.
struct Strict<T> {
    inner: T,
    fields: &'static [&'static str],
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Strict { inner: visitor, fields: &[] })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(Strict { inner: visitor, fields: &[] })
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_identifier(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // Not as a struct: serde also reads one from an array, which no other reader does.
        self.inner.deserialize_map(Strict { inner: visitor, fields })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_newtype_struct(name, Strict { inner: visitor, fields: &[] })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, Strict { inner: visitor, fields: &[] })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_ignored_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<V::Value, E> {
        self.inner.visit_bool(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<V::Value, E> {
        self.inner.visit_i64(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<V::Value, E> {
        self.inner.visit_u64(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<V::Value, E> {
        self.inner.visit_f64(value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<V::Value, E> {
        self.inner.visit_str(value)
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.inner.visit_borrowed_str(value)
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<V::Value, E> {
        self.inner.visit_string(value)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Strict { inner: from, fields: &[] })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Strict { inner: from, fields: &[] })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Strict { inner: seq, fields: &[] })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Strict { inner: map, fields: self.fields })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Strict { inner: access, fields: &[] })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Strict { inner: from, fields: &[] })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(Strict { inner: seed, fields: &[] })
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        if self.fields.is_empty() {
            return self.inner.next_key_seed(seed);
        }
        let Some(Key(key)) = self.inner.next_key()? else { return Ok(None) };
        if !self.fields.contains(&&*key)
            && let Some(field) = folded(&key, self.fields)
        {
            return Err(A::Error::custom(format_args!(
                "the key {key:?} is read as {field:?} by some programs and ignored by others"
            )));
        }
        match key {
            Cow::Borrowed(key) => seed.deserialize(serde::de::value::BorrowedStrDeserializer::new(key)),
            Cow::Owned(key) => seed.deserialize(serde::de::value::StringDeserializer::new(key)),
        }
        .map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Strict { inner: seed, fields: &[] })
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(seed)?;
        Ok((value, Strict { inner: variant, fields: &[] }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(Strict { inner: seed, fields: &[] })
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(length, Strict { inner: visitor, fields: &[] })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Strict { inner: visitor, fields })
    }
}

/// An object's key, without a copy where it has no escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        from.deserialize_str(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Outer {
        #[serde(deserialize_with = "or_default")]
        layers: Vec<Inner>,
        #[serde(deserialize_with = "or_default")]
        kind: u32,
        #[serde(deserialize_with = "or_default", rename = "notes")]
        _notes: StringMap,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Inner {
        #[serde(deserialize_with = "or_default", rename = "os.features")]
        _features: StringList,
        #[serde(deserialize_with = "or_default")]
        data: Base64,
    }

    #[test]
    fn folded_keys_are_refused_at_every_depth() {
        for (json, good) in [
            (r#"{"layers":[{"data":"e30="}],"kind":3}"#, true),
            (r#"{"other":1,"LAYERZ":2}"#, true),
            (r#"{"notes":{"Layers":"a value's key is free","layers":"x"}}"#, true),
            (r#"{"other":{"Layers":[]}}"#, true),
            (r#"{"Layers":[]}"#, false),
            (r#"{"layer\u017f":[]}"#, false),
            ("{\"layer\u{17f}\":[]}", false),
            ("{\"\u{212a}ind\":1}", false),
            (r#"{"layers":[],"LAYERS":[]}"#, false),
            (r#"{"layers":[{"Data":""}]}"#, false),
            (r#"{"layers":[{"OS.features":[]}]}"#, false),
            (r#"{"layers":[],"layers":[]}"#, false),
            (r#"{"layers":[]}x"#, false),
            ("[]", false),
            (r#"{"layers":[[]]}"#, false),
        ] {
            assert_eq!(from_slice::<Outer>(json.as_bytes()).is_ok(), good, "{json}");
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(json)
                && json.matches("\"layers\"").count() < 2
            {
                assert_eq!(from_value::<Outer>(&value).is_ok(), good, "{json} as a value");
            }
        }
    }

    #[test]
    fn types_are_those_of_other_readers_and_null_is_absent() {
        for (json, good) in [
            (r#"{"layers":null,"kind":null,"notes":null}"#, true),
            (r#"{"notes":{"a":null,"b":"c"}}"#, true),
            (r#"{"layers":[{"os.features":["a",null],"data":null}]}"#, true),
            (r#"{"notes":{"a":1}}"#, false),
            (r#"{"notes":["a"]}"#, false),
            (r#"{"layers":[{"os.features":"a"}]}"#, false),
            (r#"{"layers":[{"os.features":[1]}]}"#, false),
            (r#"{"layers":[{"data":"!!"}]}"#, false),
            (r#"{"kind":2.0}"#, false),
            (r#"{"kind":"2"}"#, false),
        ] {
            assert_eq!(from_slice::<Outer>(json.as_bytes()).is_ok(), good, "{json}");
        }
        let read: Outer = from_slice(br#"{"layers":[{}],"kind":7}"#).unwrap();
        assert_eq!((read.layers.len(), read.kind), (1, 7));
    }
}
