//! Image names in the templates of a chart that helm does not render: sure where the values and the expression determine the
//! whole name, doubtful everywhere else.
//!
//! This evaluates paths into the values and the chart, and the few functions that join names. Everything else (`include`,
//! `range`, variables) makes a name doubtful. It does not imitate helm.

use super::heuristics::{self, whole_name};
use super::text_rules;
use super::{Discovery, DoubtReason};
use crate::list::SourceLocation;
use crate::oci::Reference;
use crate::yaml::{YamlNode, YamlValue};
use std::sync::Arc;

/// Maximum length of a line that is evaluated, in bytes.
const MAX_LINE_BYTES: usize = 4096;
/// Maximum nesting depth of parentheses.
const MAX_NESTING: usize = 20;

/// What the templates of one chart see.
pub(super) struct TemplateContext {
    pub(super) values: Arc<YamlNode>,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) app_version: String,
}

/// Whether the lines of a block are rendered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BlockState {
    Rendered,
    NotRendered,
    Unknown,
}

/// A block that is open at a line.
struct Block {
    state: BlockState,
    /// Whether the condition of one of its branches was true, and whether all so far are known.
    decided: BlockState,
    /// Whether `.` is something other than the root.
    rebinds_dot: bool,
}

/// Finds the images of a template.
pub(super) fn scan(found: &mut Discovery, file: &Arc<str>, text: &str, context: &TemplateContext) {
    let mut blocks: Vec<Block> = Vec::new();
    let mut in_comment = false;
    for (number, line) in (1..).zip(text.lines()) {
        if text_rules::is_comment(line, &mut in_comment) || line.len() > MAX_LINE_BYTES {
            continue;
        }
        let origin = SourceLocation { file: file.clone(), line: number, module: None };
        let value = text_rules::value_of_image_key(line);
        let state = state_of(&blocks);
        match value {
            Some(value) if heuristics::is_template(value) => {
                let dot_is_root = !blocks.iter().any(|block| block.rebinds_dot);
                evaluated(found, value, origin, state, &Evaluator { context, dot_is_root });
            }
            _ if state == BlockState::NotRendered => {
                if let Some(text) = value.and_then(whole_name) {
                    found.doubt(&text.to_string(), origin, DoubtReason::NotRendered);
                }
            }
            _ => text_rules::scan_template(found, file, line, number),
        }
        actions(line).for_each(|action| track_block(&mut blocks, action, context));
    }
}

fn state_of(blocks: &[Block]) -> BlockState {
    if blocks.iter().any(|block| block.state == BlockState::NotRendered) {
        BlockState::NotRendered
    } else if blocks.iter().any(|block| block.state == BlockState::Unknown) {
        BlockState::Unknown
    } else {
        BlockState::Rendered
    }
}

/// The value of an image key that has actions in it.
fn evaluated(
    found: &mut Discovery,
    value: &str,
    origin: SourceLocation,
    state: BlockState,
    evaluator: &Evaluator<'_>,
) {
    let text = unquoted(value.trim());
    let rendered = evaluator.text(text).filter(|name| Reference::parse(name).is_ok());
    match (rendered, state) {
        (Some(name), BlockState::Rendered) if whole_name(&name).is_some() => {
            whole_name(&name).into_iter().for_each(|image| found.sure(image, origin.clone()));
        }
        (Some(name), BlockState::NotRendered) => found.doubt(&name, origin, DoubtReason::NotRendered),
        (Some(name), _) => found.doubt(&name, origin, DoubtReason::ChartValue),
        (None, BlockState::NotRendered) => {}
        (None, _) => found.doubt(text, origin, DoubtReason::UnrenderedTemplate),
    }
}

/// A value without its quotes, up to the end of a flow collection or a comment. Actions may have all of these in them.
fn unquoted(value: &str) -> &str {
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let value = quote.map_or(value, |quote| value.strip_prefix(quote).unwrap_or(value));
    let is_end = |c: char| quote.map_or(matches!(c, ',' | '}' | ' ' | '\t'), |quote| c == quote);
    let mut from = 0;
    while let Some(end) = value[from..].find(|c: char| is_end(c) || c == '{') {
        let end = from + end;
        if let Some(action) = value[end..].strip_prefix("{{") {
            let Some(length) = action.find("}}") else { return value };
            from = end + length + 4;
        } else if value[end..].starts_with('{') {
            from = end + 1;
        } else {
            return &value[..end];
        }
    }
    value
}

/// The actions of a line, without their delimiters.
fn actions(line: &str) -> impl Iterator<Item = &str> {
    line.split("{{").skip(1).filter_map(|part| part.split_once("}}")).map(|(action, _)| trim_action(action))
}

fn trim_action(action: &str) -> &str {
    let action = action.strip_prefix('-').unwrap_or(action);
    action.strip_suffix('-').unwrap_or(action).trim()
}

fn track_block(blocks: &mut Vec<Block>, action: &str, context: &TemplateContext) {
    let (keyword, rest) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
    let condition = |rest: &str, blocks: &[Block]| {
        let dot_is_root = !blocks.iter().any(|block| block.rebinds_dot);
        match (Evaluator { context, dot_is_root }).value(rest) {
            Some(value) if value.is_true() => BlockState::Rendered,
            Some(_) => BlockState::NotRendered,
            None => BlockState::Unknown,
        }
    };
    match keyword {
        "if" => {
            let state = condition(rest, blocks);
            blocks.push(Block { state, decided: state, rebinds_dot: false });
        }
        "with" | "range" => {
            let state = match condition(rest, blocks) {
                BlockState::NotRendered => BlockState::NotRendered,
                _ if keyword == "range" => BlockState::Unknown,
                state => state,
            };
            blocks.push(Block { state, decided: state, rebinds_dot: true });
        }
        "define" | "block" => {
            blocks.push(Block { state: BlockState::Unknown, decided: BlockState::Unknown, rebinds_dot: true })
        }
        "else" => {
            let Some(mut block) = blocks.pop() else { return };
            let branch = match rest.trim_start().strip_prefix("if ") {
                Some(rest) => condition(rest, blocks),
                None => BlockState::Rendered,
            };
            block.state = match block.decided {
                BlockState::Rendered => BlockState::NotRendered,
                BlockState::Unknown => BlockState::Unknown,
                BlockState::NotRendered => branch,
            };
            if block.decided == BlockState::NotRendered {
                block.decided = branch;
            }
            blocks.push(block);
        }
        "end" => drop(blocks.pop()),
        _ => {}
    }
}

/// The value of an expression.
#[derive(Clone)]
enum TemplateValue {
    Text(String),
    /// A value that is not a text: only whether it is empty matters.
    Other {
        is_empty: bool,
    },
}

impl TemplateValue {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn boolean(value: bool) -> Self {
        Self::text(if value { "true" } else { "false" })
    }

    fn of(node: Option<&YamlNode>) -> Self {
        match node.map(|node| (node, &node.value)) {
            None => Self::text(""),
            Some((node, YamlValue::Scalar(_))) => Self::text(node.text().unwrap_or_default()),
            Some((node, _)) => Self::Other { is_empty: node.items().is_empty() && node.pairs().is_empty() },
        }
    }

    fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !matches!(text.as_str(), "" | "false" | "0"),
            Self::Other { is_empty } => !is_empty,
        }
    }

    fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other { .. } => None,
        }
    }
}

struct Evaluator<'a> {
    context: &'a TemplateContext,
    dot_is_root: bool,
}

impl Evaluator<'_> {
    /// A text with all its actions evaluated; none if one of them cannot be.
    fn text(&self, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}")?;
            out.push_str(before);
            out.push_str(&self.value(trim_action(action))?.into_text()?);
            rest = after;
        }
        out.push_str(rest);
        Some(out.trim().to_owned())
    }

    fn value(&self, pipeline: &str) -> Option<TemplateValue> {
        let tokens = tokens(pipeline)?;
        let (value, rest) = self.pipeline(&tokens, 0)?;
        rest.is_empty().then_some(value)
    }

    /// A pipeline up to a closing parenthesis or the end, and what follows it.
    fn pipeline<'t>(&self, mut tokens: &'t [Token], depth: usize) -> Option<(TemplateValue, &'t [Token])> {
        if depth > MAX_NESTING {
            return None;
        }
        let mut piped: Option<TemplateValue> = None;
        let mut name = None;
        let mut operands = Vec::new();
        while let Some((token, rest)) = tokens.split_first() {
            tokens = rest;
            match token {
                Token::Close if depth == 0 => return None,
                Token::Close => return Some((self.command(name, operands, piped)?, tokens)),
                Token::Pipe => {
                    piped = Some(self.command(name.take(), std::mem::take(&mut operands), piped.take())?);
                }
                Token::Open => {
                    let (value, rest) = self.pipeline(tokens, depth + 1)?;
                    tokens = rest;
                    operands.push(value);
                }
                Token::Text(text) => operands.push(TemplateValue::text(text)),
                Token::Word(word) if word.starts_with(['.', '$']) => operands.push(self.path(word)?),
                Token::Word(word) if name.is_none() && operands.is_empty() => name = Some(word.as_str()),
                Token::Word(_) => return None,
            }
        }
        if depth > 0 { None } else { Some((self.command(name, operands, piped)?, tokens)) }
    }

    fn path(&self, path: &str) -> Option<TemplateValue> {
        let path = match path.strip_prefix('$') {
            Some(path) => path,
            None if self.dot_is_root => path,
            None => return None,
        };
        let mut keys = path.split('.').skip(1);
        let context = self.context;
        match (keys.next()?, path) {
            ("Values", _) => {
                let node = keys.try_fold(&*context.values, |node, key| node.get(key));
                Some(TemplateValue::of(node))
            }
            (_, ".Chart.Name") => Some(TemplateValue::text(&context.name)),
            (_, ".Chart.Version") => Some(TemplateValue::text(&context.version)),
            (_, ".Chart.AppVersion") => Some(TemplateValue::text(&context.app_version)),
            _ => None,
        }
    }

    /// A function with its operands, of which the piped value is the last.
    fn command(
        &self,
        name: Option<&str>,
        mut operands: Vec<TemplateValue>,
        piped: Option<TemplateValue>,
    ) -> Option<TemplateValue> {
        operands.extend(piped);
        let texts = |operands: Vec<TemplateValue>| -> Option<Vec<String>> {
            operands.into_iter().map(TemplateValue::into_text).collect()
        };
        match (name, operands.as_slice()) {
            (None, [value]) => Some(value.clone()),
            (Some("true"), []) => Some(TemplateValue::boolean(true)),
            (Some("false"), []) => Some(TemplateValue::boolean(false)),
            (Some("quote" | "squote" | "toString" | "trim" | "tpl"), [value, ..]) => {
                let text = value.clone().into_text()?;
                (!text.contains("{{")).then(|| TemplateValue::text(text.trim()))
            }
            (Some("default"), [default, value]) => {
                Some(if value.is_true() { value } else { default }.clone())
            }
            (Some("required"), [_, value]) => value.is_true().then(|| value.clone()),
            (Some("coalesce" | "or"), [.., last]) => {
                Some(operands.iter().find(|value| value.is_true()).unwrap_or(last).clone())
            }
            (Some("and"), [.., last]) => {
                Some(operands.iter().find(|value| !value.is_true()).unwrap_or(last).clone())
            }
            (Some("not" | "empty"), [value]) => Some(TemplateValue::boolean(!value.is_true())),
            (Some("eq" | "ne"), [_, _]) => {
                let texts = texts(operands.clone())?;
                Some(TemplateValue::boolean((texts[0] == texts[1]) == (name == Some("eq"))))
            }
            (Some("lower"), [_]) => Some(TemplateValue::text(texts(operands)?[0].to_lowercase())),
            (Some("trimPrefix"), [_, _]) => {
                let texts = texts(operands)?;
                Some(TemplateValue::text(texts[1].strip_prefix(texts[0].as_str()).unwrap_or(&texts[1])))
            }
            (Some("trimSuffix"), [_, _]) => {
                let texts = texts(operands)?;
                Some(TemplateValue::text(texts[1].strip_suffix(texts[0].as_str()).unwrap_or(&texts[1])))
            }
            (Some("printf"), [_, ..]) => formatted(&texts(operands)?),
            _ => None,
        }
    }
}

/// `printf` with `%s` and `%v`.
fn formatted(texts: &[String]) -> Option<TemplateValue> {
    let (format, operands) = texts.split_first()?;
    let mut operands = operands.iter();
    let mut parts = format.split('%');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let rest = part.strip_prefix(['s', 'v'])?;
        out.push_str(operands.next()?);
        out.push_str(rest);
    }
    operands.next().is_none().then(|| TemplateValue::text(out))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Pipe,
    Text(String),
    Word(String),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        match first {
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            '|' => tokens.push(Token::Pipe),
            '"' | '`' => {
                let end = rest[1..].find(first)?;
                let literal = &rest[1..=end];
                if literal.contains('\\') {
                    return None;
                }
                tokens.push(Token::Text(literal.to_owned()));
                rest = rest[end + 2..].trim_start();
                continue;
            }
            _ => {
                let end = rest.find([' ', '\t', '(', ')', '|', '"', '`']).unwrap_or(rest.len());
                let word = &rest[..end];
                let is_number = word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && word != ".";
                let word = word.to_owned();
                tokens.push(if is_number { Token::Text(word) } else { Token::Word(word) });
                rest = rest[end..].trim_start();
                continue;
            }
        }
        rest = rest[1..].trim_start();
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(values: &str) -> TemplateContext {
        let values = crate::yaml::parse(&"values.yaml".into(), values).documents.swap_remove(0);
        TemplateContext { values, name: "c".into(), version: "1.0".into(), app_version: "2.0".into() }
    }

    #[test]
    fn expressions_are_evaluated() {
        let context = context("{r: a.io, i: {name: b, tag: \"\"}, on: true, off: false, none: ~}");
        let evaluator = Evaluator { context: &context, dot_is_root: true };
        for (text, expected) in [
            ("{{ .Values.r }}/{{ $.Values.i.name }}:1", Some("a.io/b:1")),
            ("{{ .Values.i.tag | default .Chart.AppVersion }}", Some("2.0")),
            ("{{- .Values.i.tag | default (printf \"v%s\" .Chart.AppVersion) | quote -}}", Some("v2.0")),
            ("{{ default (printf \"%s-%v\" .Chart.Name .Chart.Version) .Values.i.tag }}", Some("c-1.0")),
            ("{{ printf \"%s/%s\" .Values.r .Values.i.name }}", Some("a.io/b")),
            ("{{ coalesce .Values.none .Values.i.name \"x\" }}", Some("b")),
            ("{{ trimSuffix \"o\" .Values.r }}", Some("a.i")),
            ("{{ .Values.missing.deep }}", Some("")),
            ("{{ include \"image\" . }}", None),
            ("{{ .Values.i }}", None),
            ("{{ .Release.Name }}", None),
            ("{{ printf \"%d\" .Values.r }}", None),
            ("{{ .Values.r", None),
            ("{{ ((((((((((((((((((((((((.Values.r", None),
        ] {
            assert_eq!(evaluator.text(text).as_deref(), expected, "{text}");
        }
        for (condition, expected) in [
            (".Values.on", Some(true)),
            ("not .Values.on", Some(false)),
            ("and .Values.on (not .Values.off)", Some(true)),
            ("or .Values.off .Values.none", Some(false)),
            ("eq .Values.r \"a.io\"", Some(true)),
            ("ne .Values.r \"a.io\"", Some(false)),
            (".Values.i", Some(true)),
            ("semverCompare \">1\" .Chart.Version", None),
        ] {
            assert_eq!(evaluator.value(condition).map(|value| value.is_true()), expected, "{condition}");
        }
    }

    #[test]
    fn names_are_sure_only_where_values_and_conditions_are_known() {
        let context = context("{image: {repository: a.io/b, tag: 1}, on: true, off: false}");
        let image = "image: \"{{ .Values.image.repository }}:{{ .Values.image.tag }}\"";
        for (template, sure, reason) in [
            ("IMAGE\n", true, None),
            ("spec: {containers: [{IMAGE, name: a}]}\n", true, None),
            ("image: {{ default (printf \"a.io/x:%s\" .Chart.Version) .Values.none }} # why\n", true, None),
            ("{{ if .Values.on }}\nIMAGE\n{{ end }}\n", true, None),
            ("{{- if .Values.off }}\nIMAGE\n{{- end }}\n", false, Some(DoubtReason::NotRendered)),
            ("{{ if .Values.off }}\n{{ else }}\nIMAGE\n{{ end }}\n", true, None),
            (
                "{{ if .Values.off }}\n{{ else if .Values.off }}\nIMAGE\n{{ end }}\n",
                false,
                Some(DoubtReason::NotRendered),
            ),
            ("{{ if .Capabilities.x }}\nIMAGE\n{{ end }}\n", false, Some(DoubtReason::ChartValue)),
            ("{{ with .Values.image }}\nIMAGE\n{{ end }}\n", false, Some(DoubtReason::UnrenderedTemplate)),
            ("{{ if .Values.off }}x{{ end }}\nIMAGE\n", true, None),
            ("{{ if .Capabilities.x }}\nimage: a.io/literal:1\n{{ end }}\n", true, None),
            (
                "{{ if .Values.off }}\nimage: a.io/literal:1\n{{ end }}\n",
                false,
                Some(DoubtReason::NotRendered),
            ),
            ("image: {{ include \"x\" . }}\n", false, Some(DoubtReason::UnrenderedTemplate)),
            ("image: \"{{ .Values.hub }}/x:1\"\n", false, Some(DoubtReason::UnrenderedTemplate)),
        ] {
            let mut found = Discovery::default();
            scan(&mut found, &"t".into(), &template.replace("IMAGE", image), &context);
            assert_eq!(found.images.len(), usize::from(sure), "{template}: {found:?}");
            let reasons: Vec<DoubtReason> = found.doubts.iter().map(|doubt| doubt.reason).collect();
            assert_eq!(reasons, Vec::from_iter(reason), "{template}");
        }
    }
}
