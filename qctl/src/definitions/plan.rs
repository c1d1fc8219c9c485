//! What makes the queues of a server those of a file.

use std::collections::{BTreeMap, BTreeSet};

use qd_protocol::attributes::{DEAD_LETTER_CHAIN_MAX, DeadLetter};
use qd_protocol::{AttributeChanges, Attributes, QueueDescription, QueueName, Statistics};

use super::Definitions;
use super::value::written;

/// What happens to one queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name.
    pub queue: QueueName,
    /// What.
    pub kind: Kind,
}

/// See [`Change`].
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// It is made.
    New {
        /// With these attributes.
        attributes: Attributes,
    },
    /// Attributes of it change.
    Changed {
        /// What they were.
        from: Attributes,
        /// What they become.
        to: Attributes,
        /// Messages that it holds.
        held: u64,
    },
    /// It is dropped.
    Gone {
        /// Messages that it holds.
        held: u64,
    },
}

/// A difference between attributes, as people see it.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// The attribute.
    pub name: &'static str,
    /// What it was.
    pub old: String,
    /// What it becomes.
    pub new: String,
}

impl Change {
    /// The attributes that differ: from what they were, or of a new queue from the defaults.
    pub fn differences(&self) -> Vec<Difference> {
        let (from, to) = match &self.kind {
            Kind::New { attributes } => (&Attributes::default(), attributes),
            Kind::Changed { from, to, .. } => (from, to),
            Kind::Gone { .. } => return Vec::new(),
        };
        let pairs = from.values().into_iter().zip(to.values());
        pairs
            .filter(|((_, old), (_, new))| old != new)
            .map(|((spec, old), (_, new))| Difference {
                name: spec.name,
                old: written(spec, &old, &self.queue).to_string(),
                new: written(spec, &new, &self.queue).to_string(),
            })
            .collect()
    }

    /// What is to be asked of the server: all attributes of a new queue, those that differ of an
    /// old one.
    pub fn attributes(&self) -> AttributeChanges {
        let mut changes = AttributeChanges::default();
        match &self.kind {
            Kind::New { attributes } => changes = attributes.into(),
            Kind::Changed { from, to, .. } => {
                for ((_, old), (spec, new)) in from.values().into_iter().zip(to.values()) {
                    if old != new {
                        changes.set(spec.tag, new);
                    }
                }
            }
            Kind::Gone { .. } => {}
        }
        changes
    }
}

/// What leads from what is there to the file.
#[derive(Debug)]
pub struct Plan {
    /// In the order of the names.
    pub changes: Vec<Change>,
    targets: Targets,
}

/// What leads from what is there to the file; with `prune` what the file does not have is dropped, but for the dead-letter queues of what stays. Or what is
/// wrong with the file in view of what is there: a line each, with its place.
pub fn plan(
    definitions: &Definitions,
    existing: &[QueueDescription],
    prune: bool,
) -> Result<Plan, Vec<String>> {
    let mut targets = Targets::default();
    let mut changes = BTreeMap::new();
    for (name, defined) in &definitions.queues {
        targets.insert(name, &defined.attributes.dead_letter);
        let kind = Kind::New { attributes: defined.attributes.clone() };
        changes.insert(name.clone(), kind);
    }
    for queue in existing {
        if let Some(defined) = definitions.queues.get(&queue.name) {
            let (from, to) = (queue.attributes.clone(), defined.attributes.clone());
            changes.remove(&queue.name);
            if from != to {
                let held = held(&queue.statistics);
                changes.insert(queue.name.clone(), Kind::Changed { from, to, held });
            }
        } else {
            targets.insert(&queue.name, &queue.attributes.dead_letter);
        }
    }
    if prune {
        let kept = targets.behind(definitions.queues.keys());
        for queue in existing.iter().filter(|queue| !kept.contains(&queue.name)) {
            changes.insert(queue.name.clone(), Kind::Gone { held: held(&queue.statistics) });
            targets.0.remove(&queue.name);
        }
    }
    let mistakes: Vec<String> = definitions
        .queues
        .iter()
        .filter_map(|(name, defined)| {
            let what = targets.mistake(name)?;
            Some(format!("{}: queue \"{name}\": {what}", definitions.document.place(defined.at)))
        })
        .collect();
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let changes = changes.into_iter().map(|(queue, kind)| Change { queue, kind }).collect();
    Ok(Plan { changes, targets })
}

fn held(statistics: &Statistics) -> u64 {
    statistics.ready + statistics.delayed + statistics.leased
}

impl Plan {
    /// The changes in an order in which no step leads dead letters round in a circle where the whole
    /// does not: a queue comes behind all that its dead letters may come to. What is dropped comes
    /// last.
    pub fn in_order(&self) -> Vec<&Change> {
        let is_gone = |change: &&Change| matches!(change.kind, Kind::Gone { .. });
        let by_name: BTreeMap<&QueueName, &Change> =
            self.changes.iter().map(|change| (&change.queue, change)).collect();
        let mut done = BTreeSet::new();
        let mut order = Vec::new();
        for change in self.changes.iter().filter(|change| !is_gone(change)) {
            // Down to the end of the chain, then back up; also through queues that do not change.
            let mut path: Vec<&Change> = Vec::new();
            let mut next = Some(&change.queue);
            while let Some(queue) = next.filter(|queue| done.insert(*queue)) {
                path.extend(by_name.get(queue).filter(|change| !is_gone(change)));
                next = self.targets.next(queue);
            }
            order.extend(path.into_iter().rev());
        }
        order.extend(self.changes.iter().filter(is_gone));
        order
    }
}

/// Where the dead letters of each queue go once all is done.
#[derive(Debug, Default)]
struct Targets(BTreeMap<QueueName, Option<QueueName>>);

impl Targets {
    fn insert(&mut self, queue: &QueueName, dead_letter: &DeadLetter) {
        self.0.insert(queue.clone(), dead_letter.queue_of(queue));
    }

    fn next(&self, queue: &QueueName) -> Option<&QueueName> {
        self.0.get(queue)?.as_ref()
    }

    /// The queues and all that their dead letters may come to.
    fn behind<'a>(&self, queues: impl Iterator<Item = &'a QueueName>) -> BTreeSet<QueueName> {
        let mut kept = BTreeSet::new();
        for queue in queues {
            let mut next = Some(queue);
            while let Some(queue) = next.filter(|queue| kept.insert((*queue).clone())) {
                next = self.next(queue);
            }
        }
        kept
    }

    /// What the server would refuse of the dead-letter queues behind this one.
    fn mistake(&self, queue: &QueueName) -> Option<String> {
        let mut path: Vec<&QueueName> = Vec::new();
        let mut next = self.next(queue);
        while let Some(target) = next {
            if path.len() == DEAD_LETTER_CHAIN_MAX {
                return Some(format!(
                    "there is a chain of more than {DEAD_LETTER_CHAIN_MAX} dead-letter queues \
                     behind it"
                ));
            }
            path.push(target);
            if target == queue {
                let path: Vec<String> = path.iter().map(|name| format!("\"{name}\"")).collect();
                let path = path.join(" -> ");
                return Some(format!("its dead letters lead back to it: \"{queue}\" -> {path}"));
            }
            next = self.next(target);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions::read;
    use crate::document::{Document, Form};

    fn definitions(text: &str) -> Definitions {
        let text = format!("version = 1\n{text}");
        read(Document::parse("f".to_owned(), text.into_bytes(), Form::Toml).unwrap()).unwrap()
    }

    /// A queue that holds `ready` messages.
    fn queue(text: &str, ready: u64) -> QueueDescription {
        let mut queues = definitions(&format!("[queues]\n{text}")).queues;
        let (name, defined) = queues.pop_first().unwrap();
        let statistics = Statistics { ready, ..Statistics::default() };
        QueueDescription { name, created_at_ms: 0, attributes: defined.attributes, statistics }
    }

    fn names(changes: &[Change]) -> Vec<String> {
        let sign = |change: &Change| match change.kind {
            Kind::New { .. } => '+',
            Kind::Changed { .. } => '~',
            Kind::Gone { .. } => '-',
        };
        changes.iter().map(|change| format!("{}{}", sign(change), change.queue)).collect()
    }

    #[test]
    fn difference_is_what_is_new_changed_and_with_prune_gone() {
        let file =
            definitions("[queues]\na = {}\nb = { delay = \"5s\" }\nc = { max-messages = 7 }");
        let there = [
            queue("a = {}", 0),
            queue("b = { max-messages = 5 }", 3),
            queue("d = {}", 2),
            queue("\"b.dead\" = {}", 1),
        ];
        let changes = plan(&file, &there, false).unwrap().changes;
        assert_eq!(names(&changes), ["~b", "+c"]);
        let told = |change: &Change| {
            let differences = change.differences().into_iter();
            differences.map(|d| format!("{} {} {}", d.name, d.old, d.new)).collect::<Vec<_>>()
        };
        assert_eq!(told(&changes[0]), ["max-messages 5 unlimited", "delay 0 5s"]);
        assert_eq!(told(&changes[1]), ["max-messages unlimited 7"]);
        let asked = changes[0].attributes().values().into_iter();
        assert_eq!(asked.filter(|(_, value)| value.is_some()).count(), 2);
        let changes = plan(&file, &there, true).unwrap().changes;
        assert_eq!(names(&changes), ["~b", "+c", "-d"]);
        assert_eq!(changes[2].kind, Kind::Gone { held: 2 });
        assert!(told(&changes[2]).is_empty());
    }

    #[test]
    fn dead_letter_queues_of_what_stays_are_kept() {
        let file = definitions(
            "[queues]\na = {}\nb = { dead-letter = \"x\" }\nc = { dead-letter = \"none\" }",
        );
        let there = [
            queue("\"a.dead\" = { dead-letter = \"y\" }", 0),
            queue("\"b.dead\" = {}", 0),
            queue("\"c.dead\" = {}", 0),
            queue("x = {}", 0),
            queue("y = {}", 0),
            queue("\"y.dead\" = {}", 0),
            queue("z = {}", 0),
        ];
        let changes = plan(&file, &there, true).unwrap().changes;
        let gone: Vec<_> =
            names(&changes).into_iter().filter(|name| name.starts_with('-')).collect();
        assert_eq!(gone, ["-b.dead", "-c.dead", "-z"]);
    }

    #[test]
    fn circle_of_dead_letters_is_told_also_through_what_is_there() {
        let file = definitions("[queues]\na = { dead-letter = \"b\" }");
        let there = [queue("b = { dead-letter = \"a\" }", 0)];
        let mistakes = plan(&file, &there, false).unwrap_err();
        let text = "f:3:1: queue \"a\": its dead letters lead back to it: \"a\" -> \"b\" -> \"a\"";
        assert_eq!(mistakes, [text]);
        assert_eq!(
            plan(&file, &there, true).unwrap_err(),
            [text],
            "b is kept for a's dead letters"
        );
        let links = |most: usize| {
            let link = |n: usize| format!("q{n} = {{ dead-letter = \"q{}\" }}\n", n + 1);
            definitions(&format!("[queues]\n{}", (0..most).map(link).collect::<String>()))
        };
        assert!(plan(&links(DEAD_LETTER_CHAIN_MAX), &[], false).is_ok());
        let mistakes = plan(&links(DEAD_LETTER_CHAIN_MAX + 1), &[], false).unwrap_err();
        assert!(mistakes[0].contains("a chain of more than 16"), "{mistakes:?}");
    }

    #[test]
    fn queue_comes_behind_the_one_that_its_dead_letters_go_to() {
        let file = definitions(
            "[queues]\na = { dead-letter = \"c\" }\nb = { dead-letter = \"none\" }\n\
             c = { dead-letter = \"b\" }\nd = {}",
        );
        // The other way round.
        let there = [
            queue("a = { dead-letter = \"none\" }", 0),
            queue("b = { dead-letter = \"c\" }", 0),
            queue("c = { dead-letter = \"a\" }", 0),
            queue("e = {}", 0),
        ];
        let plan = plan(&file, &there, true).unwrap();
        let order: Vec<Change> = plan.in_order().into_iter().cloned().collect();
        assert_eq!(names(&order), ["~b", "~c", "~a", "+d", "-e"]);
    }

    #[test]
    fn order_holds_also_through_queues_that_do_not_change() {
        let file = definitions(
            "[queues]\na = { dead-letter = \"u\" }\nb = { dead-letter = \"none\" }\n\
             u = { dead-letter = \"b\" }",
        );
        let there = [
            queue("a = { dead-letter = \"none\" }", 0),
            queue("b = { dead-letter = \"a\" }", 0),
            queue("u = { dead-letter = \"b\" }", 0),
        ];
        let plan = plan(&file, &there, false).unwrap();
        let order: Vec<Change> = plan.in_order().into_iter().cloned().collect();
        assert_eq!(names(&order), ["~b", "~a"]);
    }
}
