//! Pickled objects as inert data: the whole of pickle's instructions up to protocol 5, of which none
//! runs anything. A call or a class instance stays a note of what would be called with what.
//!
//! Objects lie in one table and name each other by their place in it, so neither reading nor dropping
//! them recurses, however deep they are nested.

use std::collections::HashMap;

/// The most objects that one pickle may have. The paper's network takes 13,000.
pub(super) const MAX_OBJECTS: usize = 1 << 21;

/// An object's place in the table.
pub(super) type Id = u32;

/// An object.
pub(super) enum Node<'a> {
    /// `None`, floats, bytes, sets: nothing that names or describes a tensor.
    Other,
    /// An integer or a truth value.
    Int(i64),
    /// An integer of more than 64 bits, its bytes from the lowest on.
    Long(&'a [u8]),
    Text(&'a str),
    /// A class or function: its module and its name.
    Global(&'a str, &'a str),
    /// A tuple or list.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// What lies outside of the pickle, by its description.
    Persistent(Id),
    Object(Box<Object>),
}

/// What a call would give.
pub(super) struct Object {
    /// The class or function.
    pub(super) class: Id,
    pub(super) arguments: Id,
    /// What is put into it as into a dictionary.
    pub(super) items: Vec<(Id, Id)>,
    /// What is given to its `__setstate__`.
    pub(super) state: Option<Id>,
}

/// All objects of a pickle.
pub(super) struct Objects<'a> {
    nodes: Vec<Node<'a>>,
    /// The object that was pickled.
    pub(super) root: Id,
    /// The pickle's length.
    pub(super) length: usize,
}

impl<'a> Objects<'a> {
    /// Reads the pickle at the start of `bytes`.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: vec![Node::Other],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        match machine.run() {
            Ok(root) => Ok(Self { nodes: machine.nodes, root, length: machine.at }),
            Err(problem) => Err(format!("byte {} of its pickle: {problem}", machine.at)),
        }
    }

    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        // Ids come from this table alone.
        self.nodes.get(id as usize).unwrap_or(&Node::Other)
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn text(&self, id: Id) -> Option<&'a str> {
        if let Node::Text(text) = self.node(id) { Some(text) } else { None }
    }

    pub(super) fn list(&self, id: Id) -> Option<&[Id]> {
        if let Node::List(items) = self.node(id) { Some(items) } else { None }
    }

    /// A size: an integer that is not negative.
    pub(super) fn size(&self, id: Id) -> Option<usize> {
        if let Node::Int(value) = self.node(id) { (*value).try_into().ok() } else { None }
    }

    /// The pairs of a dictionary, or of an object that is used as one.
    pub(super) fn pairs(&self, id: Id) -> &[(Id, Id)] {
        match self.node(id) {
            Node::Dict(pairs) => pairs,
            Node::Object(object) => &object.items,
            _ => &[],
        }
    }
}

type Step<T> = Result<T, &'static str>;

const CUT: &str = "it ends too early";
const NO_MARK: &str = "no mark to go back to";
const TOO_MANY: &str = "more than 2,097,152 objects, the most that are read";

/// The one [`Node::Other`].
const OTHER: Id = 0;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            let [code] = self.array()?;
            if code == b'.' {
                return self.pop();
            }
            self.step(code)?;
        }
    }

    fn step(&mut self, code: u8) -> Step<()> {
        match code {
            // Protocol; frame; and the buffer before is read only.
            0x80 => _ = self.take(1)?,
            0x95 => _ = self.take(8)?,
            0x98 => {}
            // Stack and memo.
            b'(' if self.marks.len() < MAX_OBJECTS => self.marks.push(self.stack.len()),
            b'(' => return Err(TOO_MANY),
            b'0' => match self.pop() {
                Ok(_) => {}
                Err(_) => _ = self.marks.pop().ok_or(NO_MARK)?,
            },
            b'1' => _ = self.popped()?,
            b'2' => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            b'p' => {
                let index = self.number()?;
                self.remember(index)?;
            }
            b'q' => {
                let index = self.unsigned(1)?;
                self.remember(index)?;
            }
            b'r' => {
                let index = self.unsigned(4)?;
                self.remember(index)?;
            }
            0x94 => self.remember(self.memo.len())?,
            b'g' => {
                let index = self.number()?;
                self.recall(index)?;
            }
            b'h' => {
                let index = self.unsigned(1)?;
                self.recall(index)?;
            }
            b'j' => {
                let index = self.unsigned(4)?;
                self.recall(index)?;
            }
            // Plain values.
            b'N' | 0x8f => self.push_id(OTHER)?,
            0x88 | 0x89 => self.push(Node::Int(i64::from(code == 0x88)))?,
            b'G' => self.skip(8)?,
            b'F' => {
                self.line()?;
                self.push_id(OTHER)?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))?;
            }
            b'K' => self.size(1)?,
            b'M' => self.size(2)?,
            b'I' | b'L' => {
                let line = self.line()?;
                let digits = line.strip_suffix('L').unwrap_or(line);
                self.push(digits.parse().map_or(Node::Other, Node::Int))?;
            }
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'X' | b'T' => self.counted(4)?,
            0x8c | b'U' => self.counted(1)?,
            0x8d => self.counted(8)?,
            b'V' => {
                let line = self.line()?;
                self.push(Node::Text(line))?;
            }
            b'S' => {
                let line = self.line()?.trim_matches(['\'', '"']);
                self.push(Node::Text(line))?;
            }
            b'B' => self.blob(4)?,
            b'C' => self.blob(1)?,
            0x8e | 0x96 => self.blob(8)?,
            // Lists and dictionaries.
            b']' | b')' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'l' | b't' => {
                let items = self.popped()?;
                self.push(Node::List(items))?;
            }
            0x85..=0x87 => {
                let mut items = vec![0; usize::from(code - 0x84)];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.push(Node::List(items))?;
            }
            b'd' => {
                let pairs = self.popped_pairs()?;
                self.push(Node::Dict(pairs))?;
            }
            0x91 => {
                self.popped()?;
                self.push_id(OTHER)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' => {
                let items = self.popped()?;
                self.extend(items)?;
            }
            0x90 => _ = self.popped()?,
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(vec![(key, value)])?;
            }
            b'u' => {
                let pairs = self.popped_pairs()?;
                self.insert(pairs)?;
            }
            // Classes and calls.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(module, name))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| match self.nodes[id as usize] {
                    Node::Text(text) => Ok(text),
                    _ => Err("a class whose name is no text"),
                };
                let global = Node::Global(text(module)?, text(name)?);
                self.push(global)?;
            }
            0x82 => self.skip(1)?,
            0x83 => self.skip(2)?,
            0x84 => self.skip(4)?,
            b'R' | 0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.call(class, arguments)?;
            }
            0x92 => {
                let _named = self.pop()?;
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.call(class, arguments)?;
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let arguments = self.popped()?;
                let class = self.add(Node::Global(module, name))?;
                let arguments = self.add(Node::List(arguments))?;
                self.call(class, arguments)?;
            }
            b'o' => {
                let mut arguments = self.popped()?;
                if arguments.is_empty() {
                    return Err("an object without a class");
                }
                let class = arguments.remove(0);
                let arguments = self.add(Node::List(arguments))?;
                self.call(class, arguments)?;
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                if let Node::Object(object) = &mut self.nodes[object as usize] {
                    object.state = Some(state);
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            b'P' => {
                self.line()?;
                self.push_id(OTHER)?;
            }
            0x97 => return Err("a buffer that lies outside of it"),
            _ => return Err("no instruction of pickle's"),
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(CUT)?;
        let bytes = self.bytes.get(self.at..end).ok_or(CUT)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| CUT)
    }

    /// A number of so many bytes, the lowest first.
    fn unsigned(&mut self, width: usize) -> Step<usize> {
        let bytes = self.take(width)?;
        let value = bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).map_err(|_| CUT)
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').ok_or(CUT)?;
        self.at += length + 1;
        let line = std::str::from_utf8(&rest[..length]).map_err(|_| "a line that is no text")?;
        Ok(line.strip_suffix('\r').unwrap_or(line))
    }

    /// A place in the memo, written out.
    fn number(&mut self) -> Step<usize> {
        self.line()?.parse().map_err(|_| "a place that is no number")
    }

    /// Skips the bytes of a value of no interest.
    fn skip(&mut self, count: usize) -> Step<()> {
        self.take(count)?;
        self.push_id(OTHER)
    }

    fn blob(&mut self, width: usize) -> Step<()> {
        let count = self.unsigned(width)?;
        self.skip(count)
    }

    fn counted(&mut self, width: usize) -> Step<()> {
        let count = self.unsigned(width)?;
        // Python also pickles what is no text, as the name of a file can be.
        let text = std::str::from_utf8(self.take(count)?);
        self.push(text.map_or(Node::Other, Node::Text))
    }

    fn size(&mut self, width: usize) -> Step<()> {
        let value = self.unsigned(width)?;
        self.push(Node::Int(value as i64))
    }

    fn long(&mut self, width: usize) -> Step<()> {
        let count = self.unsigned(width)?;
        let bytes = self.take(count)?;
        self.push(match bytes {
            [] => Node::Int(0),
            [.., last] if bytes.len() <= 8 => {
                let mut all = [if *last >= 0x80 { 0xff } else { 0 }; 8];
                all[..bytes.len()].copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(all))
            }
            _ => Node::Long(bytes),
        })
    }

    fn add(&mut self, node: Node<'a>) -> Step<Id> {
        if self.nodes.len() >= MAX_OBJECTS {
            return Err(TOO_MANY);
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Id)
    }

    fn push(&mut self, node: Node<'a>) -> Step<()> {
        let id = self.add(node)?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Step<()> {
        if self.stack.len() >= MAX_OBJECTS {
            return Err(TOO_MANY);
        }
        self.stack.push(id);
        Ok(())
    }

    /// Where the stack begins since the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Id> {
        self.stack[self.floor()..].last().copied().ok_or("nothing on the stack")
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// All since the last mark.
    fn popped(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or(NO_MARK)?;
        Ok(self.stack.drain(mark..).collect())
    }

    fn popped_pairs(&mut self) -> Step<Vec<(Id, Id)>> {
        let items = self.popped()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a key without a value");
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    fn remember(&mut self, index: usize) -> Step<()> {
        let top = self.top()?;
        if self.memo.len() >= MAX_OBJECTS {
            return Err(TOO_MANY);
        }
        let index = index.try_into().map_err(|_| TOO_MANY)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Step<()> {
        let known = index.try_into().ok().and_then(|index: u32| self.memo.get(&index));
        let id = *known.ok_or("refers to an object that is not there")?;
        self.push_id(id)
    }

    fn extend(&mut self, items: Vec<Id>) -> Step<()> {
        let list = self.top()?;
        if let Node::List(list) = &mut self.nodes[list as usize] {
            list.extend(items);
        }
        Ok(())
    }

    fn insert(&mut self, pairs: Vec<(Id, Id)>) -> Step<()> {
        let into = self.top()?;
        match &mut self.nodes[into as usize] {
            Node::Dict(all) => all.extend(pairs),
            Node::Object(object) => object.items.extend(pairs),
            _ => return Err("puts a value under a key of what is no dictionary"),
        }
        Ok(())
    }

    fn call(&mut self, class: Id, arguments: Id) -> Step<()> {
        let node = match self.nodes[class as usize] {
            Node::Global("collections", "OrderedDict") => Node::Dict(self.listed(arguments)),
            _ => Node::Object(Box::new(Object { class, arguments, items: vec![], state: None })),
        };
        self.push(node)
    }

    /// The pairs that a dictionary is called with, as Python 2 did.
    fn listed(&self, arguments: Id) -> Vec<(Id, Id)> {
        let list = |id: Id| match &self.nodes[id as usize] {
            Node::List(items) => items.as_slice(),
            _ => &[],
        };
        let pair = |&id: &Id| match *list(id) {
            [key, value] => Some((key, value)),
            _ => None,
        };
        list(arguments)
            .first()
            .map_or(vec![], |&pairs| list(pairs).iter().filter_map(pair).collect())
    }
}
