//! Charts' values as helm lays them over one another.

use crate::list::SourceLocation;
use crate::yaml::{YamlNode, YamlValue};
use std::collections::HashMap;
use std::sync::Arc;

/// A value, and the file and line that it comes from: subcharts' values are laid over with their parents'.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) origin: SourceLocation,
    pub(super) value: Held,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Held {
    Null,
    Text(String),
    List(Vec<Setting>),
    Map(Vec<(String, Setting)>),
}

impl Setting {
    /// A mapping, that comes from `origin`.
    pub(super) fn map(origin: SourceLocation, pairs: Vec<(String, Self)>) -> Self {
        Self { origin, value: Held::Map(pairs) }
    }

    pub(super) fn of(node: &YamlNode, file: &Arc<str>) -> Self {
        let origin = SourceLocation { file: file.clone(), line: node.line, module: None };
        let value = match &node.value {
            YamlValue::Scalar(_) => node.text().map_or(Held::Null, |text| Held::Text(text.to_owned())),
            YamlValue::Sequence(items) => Held::List(items.iter().map(|item| Self::of(item, file)).collect()),
            YamlValue::Mapping(pairs) => {
                Held::Map(pairs.iter().map(|(key, node)| (key.text.clone(), Self::of(node, file))).collect())
            }
        };
        Self { origin, value }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Held::Map(pairs) => {
                let place = pairs.iter().position(|pair| pair.0 == key)?;
                Some(&pairs[place].1)
            }
            _ => None,
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Held::Text(text) => Some(text.trim()).filter(|text| !text.is_empty()),
            _ => None,
        }
    }

    /// The value at `a.b.c`.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |setting, key| setting.get(key))
    }

    pub(super) fn is_false(&self) -> bool {
        matches!(&self.value, Held::Text(text) if text == "false")
    }

    /// Lays `over` over it, as helm does: mappings are merged, all else is replaced.
    pub(super) fn lay_over(&mut self, over: &Self) {
        let Held::Map(above) = &over.value else {
            *self = over.clone();
            return;
        };
        let Held::Map(own) = &mut self.value else {
            *self = over.clone();
            return;
        };
        let mut places: HashMap<String, usize> = HashMap::with_capacity(own.len());
        for (place, (name, _)) in own.iter().enumerate() {
            places.entry(name.clone()).or_insert(place);
        }
        for (key, setting) in above {
            match places.get(key) {
                Some(place) => own[*place].1.lay_over(setting),
                None => {
                    places.insert(key.clone(), own.len());
                    own.push((key.clone(), setting.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(setting: &Setting) -> String {
        match &setting.value {
            Held::Null => "~".to_owned(),
            Held::Text(text) => text.clone(),
            Held::List(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(" ")),
            Held::Map(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| format!("{key}:{}", text(value)));
                format!("{{{}}}", pairs.collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn mappings_are_merged_and_all_else_is_replaced() {
        let read = |yaml: &str| Setting::of(&crate::yaml::parse(&"".into(), yaml).documents[0], &"f".into());
        for (under, over, expected) in [
            ("{a: 1, b: 2}", "{b: 3, c: 4}", "{a:1 b:3 c:4}"),
            ("{a: {b: 1, c: [1, 2]}}", "{a: {c: [3], d: ~}}", "{a:{b:1 c:[3] d:~}}"),
            ("{a: {b: 1}}", "{a: 2}", "{a:2}"),
            ("{a: 2}", "{a: {b: 1}}", "{a:{b:1}}"),
            ("[1]", "{a: 1}", "{a:1}"),
        ] {
            let mut laid = read(under);
            laid.lay_over(&read(over));
            assert_eq!(text(&laid), expected, "{under} {over}");
        }
    }
}
