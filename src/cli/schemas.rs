//! The JSON Schemas of everything that the command writes as JSON. The files in docs/reference/schemas are generated from them.

use super::commands::digest::ResolvedDigest;
use super::commands::select::SelectReport;
use super::commands::tags::TagList;
use super::ui::progress::EventLines;
use crate::bundle::{BundleCheck, BundleDocument, BundleReport, MissingContent, UnbundleReport};
use crate::containerd::LoadReport;
use crate::diff::Diff;
use crate::inspect::Inspection;
use crate::list::LockFile;
use crate::ls::Listing;
use crate::prune::PruneReport;
use crate::scan::ScanReport;
use crate::transfer::{Plan, Report};
use crate::verify::{Repair, VerifyReport};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

/// Each schema with the name of its file.
#[must_use]
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("report", schema::<Report>()),
        ("dry-run", schema::<Plan>()),
        ("event", events()),
        ("ls", schema::<Listing>()),
        ("inspect", schema::<Inspection>()),
        ("tags", schema::<TagList>()),
        ("select", schema::<SelectReport>()),
        ("digest", schema::<ResolvedDigest>()),
        ("verify", schema::<VerifyReport>()),
        ("repair", schema::<Repair>()),
        ("diff", schema::<Diff>()),
        ("lock", schema::<LockFile>()),
        ("prune", schema::<PruneReport>()),
        ("scan", schema::<ScanReport>()),
        ("load", schema::<LoadReport>()),
        ("bundle", schema::<BundleDocument>()),
        ("bundle-report", schema::<BundleReport>()),
        ("bundle-verify", schema::<BundleCheck>()),
        ("unbundle", schema::<UnbundleReport>()),
        ("missing", schema::<MissingContent>()),
    ]
}

fn schema<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    generator.into_root_schema_for::<T>().into()
}

/// A line of `--progress json` has one of several forms.
fn events() -> Value {
    let mut lines = schema::<EventLines<'_>>();
    json!({
        "$schema": lines["$schema"].take(),
        "title": "Event",
        "description": "One line of --progress json",
        "anyOf": lines["prefixItems"].take(),
        "$defs": lines["$defs"].take(),
    })
}
