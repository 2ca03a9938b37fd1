//! What must come of an image, computed from the graph alone.

use super::graph::{Kind, PLATFORMS, World};
use saver::content::memory::Contents;
use saver::oci::{Digest, Repository};
use saver::transfer::{IndexMode, MissingPlatform};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What was chosen for an image.
pub(crate) struct Choice {
    pub(crate) platforms: Option<Vec<usize>>,
    pub(crate) index: IndexMode,
    pub(crate) missing: MissingPlatform,
    pub(crate) attestations: bool,
    pub(crate) foreign: bool,
}

/// What there has to be when the image is saved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closure {
    pub(crate) root: Option<Digest>,
    pub(crate) manifests: BTreeSet<Digest>,
    pub(crate) blobs: BTreeMap<Digest, u64>,
}

#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Save(Closure),
    Skip,
    Fail,
}

/// What is read to find out, and what is found.
pub(crate) struct Expected {
    pub(crate) verdict: Verdict,
    /// Manifests that are read.
    pub(crate) manifests: BTreeSet<Digest>,
    /// Configurations that are to say their platform, and how often one may be read for that.
    pub(crate) configs: BTreeMap<Digest, u64>,
}

fn fits(asked: usize, offered: usize) -> Option<u32> {
    let (asked, offered) = (PLATFORMS[asked], PLATFORMS[offered]);
    (asked.0 == offered.0 && asked.1 == offered.1 && offered.2 <= asked.2).then_some(offered.2)
}

/// A node of the graph with what is chosen below it; `at` is its place in its index.
struct Chosen {
    node: usize,
    at: usize,
    below: Vec<Chosen>,
    attests: bool,
    /// The platform of an image: the one that its index states, else its own.
    platform: Option<usize>,
}

struct Walk<'a> {
    world: &'a World,
    choice: &'a Choice,
    there: Vec<usize>,
    artifacts: bool,
    manifests: BTreeSet<Digest>,
    configs: BTreeMap<Digest, u64>,
}

impl Walk<'_> {
    fn visit(&mut self, node: usize, at: usize, stated: Option<usize>, attests: bool) -> Option<Chosen> {
        let here = &self.world.nodes[node];
        self.manifests.insert(here.raw.digest);
        let platform = match here.kind {
            Kind::Leaf { platform, artifact: false, .. } => Some(stated.unwrap_or(platform)),
            _ => stated,
        };
        let mut chosen = Chosen { node, at, below: Vec::new(), attests, platform };
        match &here.kind {
            Kind::Index { entries, .. } => {
                let mut taken = vec![false; entries.len()];
                match &self.choice.platforms {
                    None => entries
                        .iter()
                        .zip(&mut taken)
                        .for_each(|(entry, taken)| *taken = entry.attests.is_none()),
                    Some(asked) => {
                        for asked in asked {
                            let fit = |at: &usize| fits(*asked, entries[*at].platform?);
                            let best = (0..entries.len()).filter_map(|at| fit(&at)).max();
                            let bests = (0..entries.len()).filter(|at| best.is_some() && fit(at) == best);
                            bests.for_each(|at| taken[at] = true);
                        }
                        for (entry, taken) in entries.iter().zip(&mut taken) {
                            *taken |= entry.platform.is_none() && entry.attests.is_none();
                        }
                    }
                }
                if self.choice.attestations {
                    let digest = |at: usize| self.world.nodes[entries[at].node].raw.digest;
                    let images: BTreeSet<Digest> =
                        (0..entries.len()).filter(|at| taken[*at]).map(digest).collect();
                    let all = self.choice.platforms.is_none();
                    for (entry, taken) in entries.iter().zip(&mut taken) {
                        *taken |= entry.attests.is_some_and(|image| all || images.contains(&image));
                    }
                }
                for (at, entry) in entries.iter().enumerate().filter(|(at, _)| taken[*at]) {
                    chosen.below.extend(self.visit(entry.node, at, entry.platform, entry.attests.is_some()));
                }
            }
            Kind::Leaf { .. } if attests => {}
            Kind::Leaf { artifact, platform, config, .. } => match stated {
                Some(stated) => self.there.push(stated),
                None if *artifact => self.artifacts = true,
                None => {
                    *self.configs.entry(*config).or_default() += 1;
                    let asked = self.choice.platforms.as_ref();
                    if asked.is_some_and(|asked| asked.iter().all(|asked| fits(*asked, *platform).is_none()))
                    {
                        return None;
                    }
                    self.there.push(*platform);
                }
            },
        }
        Some(chosen)
    }

    fn gather(&self, chosen: &Chosen, closure: &mut Closure) -> (Digest, Value) {
        let node = &self.world.nodes[chosen.node];
        let mut value = serde_json::from_slice::<Value>(&node.raw.bytes).unwrap();
        let mut digest = node.raw.digest;
        match &node.kind {
            Kind::Leaf { blobs, .. } => {
                let wanted = blobs.iter().filter(|(_, _, foreign)| self.choice.foreign || !foreign);
                closure.blobs.extend(wanted.map(|(digest, size, _)| (*digest, *size)));
            }
            Kind::Index { document, entries } => {
                let mut kept = Vec::new();
                let mut whole = chosen.below.len() == entries.len();
                for below in &chosen.below {
                    let (digest, document) = self.gather(below, closure);
                    let mut entry = node_entry(&value, below.at);
                    whole &= entry["digest"] == digest.to_string();
                    entry["digest"] = digest.to_string().into();
                    entry["size"] = serde_json::to_vec(&document).unwrap().len().into();
                    kept.push(entry);
                }
                if self.choice.index == IndexMode::Prune && !whole {
                    let mut pruned = document.clone();
                    pruned["manifests"] = kept.into();
                    digest = Digest::of(&serde_json::to_vec(&pruned).unwrap());
                    value = pruned;
                }
            }
        }
        closure.manifests.insert(digest);
        closure.root = Some(digest);
        (digest, value)
    }

    /// The images below in the order of the index, once for each entry.
    fn leaves<'c>(&self, chosen: &'c Chosen, into: &mut Vec<&'c Chosen>) {
        match self.world.nodes[chosen.node].kind {
            Kind::Index { .. } => chosen.below.iter().for_each(|below| self.leaves(below, into)),
            Kind::Leaf { .. } if chosen.attests => {}
            Kind::Leaf { .. } => into.push(chosen),
        }
    }

    fn judge(&self, root: Option<Chosen>) -> Verdict {
        let asked = self.choice.platforms.clone().unwrap_or_default();
        let served = |asked: &usize| self.there.iter().any(|there| fits(*asked, *there).is_some());
        let only_artifacts = self.artifacts && self.there.is_empty();
        let lacks = !only_artifacts && !asked.iter().all(served);
        if lacks && self.choice.missing == MissingPlatform::Fail {
            return Verdict::Fail;
        }
        let Some(root) = root.filter(|_| !lacks || self.artifacts || !self.there.is_empty()) else {
            return Verdict::Skip;
        };
        let mut closure = Closure::default();
        let is_index = matches!(self.world.nodes[root.node].kind, Kind::Index { .. });
        if self.choice.index == IndexMode::Flatten && is_index {
            let mut leaves = Vec::new();
            self.leaves(&root, &mut leaves);
            let Some(only) = leaves.first() else { return Verdict::Fail };
            let digest = |leaf: &Chosen| self.world.nodes[leaf.node].raw.digest;
            let manifests: BTreeSet<Digest> = leaves.iter().map(|leaf| digest(leaf)).collect();
            let class = |at: usize| (PLATFORMS[at].0, PLATFORMS[at].1, PLATFORMS[at].2);
            let classes: BTreeSet<_> = leaves.iter().filter_map(|leaf| leaf.platform).map(class).collect();
            let named = |manifest: &Digest| {
                leaves.iter().any(|leaf| digest(leaf) == *manifest && leaf.platform.is_some())
            };
            // Of several manifests for one platform the first is taken.
            let are_one = classes.len() == 1 && manifests.iter().all(named);
            if manifests.len() > 1 && !are_one {
                return Verdict::Fail;
            }
            self.gather(only, &mut closure);
        } else {
            self.gather(&root, &mut closure);
        }
        Verdict::Save(closure)
    }
}

fn node_entry(document: &Value, at: usize) -> Value {
    document["manifests"][at].clone()
}

/// What must come of the image whose root is `node`.
pub(crate) fn expect(world: &World, node: usize, choice: &Choice) -> Expected {
    let mut walk = Walk {
        world,
        choice,
        there: Vec::new(),
        artifacts: false,
        manifests: BTreeSet::new(),
        configs: BTreeMap::new(),
    };
    let root = walk.visit(node, 0, None, false);
    Expected { verdict: walk.judge(root), manifests: walk.manifests, configs: walk.configs }
}

impl Closure {
    /// What of it is not there in `repository`.
    pub(crate) fn lacking(&self, contents: &Contents, repository: &Repository) -> Vec<String> {
        let mut lacking = Vec::new();
        let there = |digest: &Digest, size: Option<u64>| {
            contents
                .blobs
                .get(digest)
                .is_some_and(|content| size.is_none_or(|size| size == content.len() as u64))
        };
        for digest in &self.manifests {
            if !there(digest, None) || !contents.revisions.contains(&(repository.clone(), *digest)) {
                lacking.push(format!("{repository}: manifest {digest}"));
            }
        }
        for (digest, size) in &self.blobs {
            if !there(digest, Some(*size)) || !contents.links.contains(&(repository.clone(), *digest)) {
                lacking.push(format!("{repository}: blob {digest}"));
            }
        }
        lacking
    }
}
