//! What `torch.save` writes: pickled objects, in which tensors are views of numbered storages.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use zip::ZipArchive;

use super::element::Element;
use super::listing::{Dictionary, Input, Listing, Place, read_range, whole};
use super::pickle::{Id, MAX_OBJECTS, Node, Objects};

/// The most bytes of pickled objects. The paper's network takes 100 kB.
const MAX_PICKLE: u64 = 64 << 20;
/// The most tensors of one file, counted in each dictionary that names them.
const MAX_TENSORS: usize = 1 << 17;
/// The most bytes of a tensor's name.
const MAX_NAME: usize = 512;
/// The most axes of a tensor, which is PyTorch's limit too.
const MAX_AXES: usize = 64;
/// How deep modules are followed into each other.
const MAX_DEPTH: usize = 64;
/// How many of a dictionary's keys are told, and how many bytes of each.
const TOLD: (usize, usize) = (8, 64);

/// What the first pickle of PyTorch's old form holds.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Lists a zip file, as PyTorch writes since 1.6.
pub(super) fn list_zip(input: &mut dyn Input) -> Result<Listing<'_>, String> {
    let mut archive =
        ZipArchive::new(input).map_err(|e| format!("not a torch.save file, or truncated ({e})"))?;
    let names: HashMap<String, usize> = archive
        .file_names_raw()
        .enumerate()
        .map(|(at, name)| (String::from_utf8_lossy(name).replace('\\', "/"), at))
        .collect();
    if archive.has_duplicate_names() || names.len() < archive.len() {
        return Err("a zip file with two entries of one name".to_string());
    }
    let mut folders = names.keys().filter_map(|name| {
        let folder = name.strip_suffix("data.pkl")?;
        (folder.is_empty() || folder.ends_with('/')).then_some(folder)
    });
    let Some(folder) = folders.next() else {
        let shown = names.keys().min().map_or("nothing", |name| name);
        return Err(format!("a zip file without a data.pkl, so not torch.save's: {shown} in it"));
    };
    if folders.next().is_some() {
        return Err("a zip file of several torch.save files; unpack it first".to_string());
    }
    let order = names.get(&format!("{folder}byteorder"));
    if let Some(&at) = order
        && read_entry(&mut archive, at, 16)? == b"big"
    {
        return Err("saved on a big-endian machine, which is not read".to_string());
    }
    let pickle = read_entry(&mut archive, names[&format!("{folder}data.pkl")], MAX_PICKLE)?;
    let objects = Objects::read(&pickle)?;

    let (mut storages, mut entries, mut blobs) = (HashMap::new(), Vec::new(), Vec::new());
    let data = format!("{folder}data/");
    for (name, &at) in &names {
        if let Some(key) = name.strip_prefix(&data) {
            storages.insert(key, entries.len());
            entries.push(at);
            blobs.push(archive.by_index_data(at).map_err(|e| e.to_string())?.size());
        }
    }
    Ok(Listing {
        dictionaries: Walk::new(&objects, storages).dictionaries()?,
        blobs,
        read: Box::new(move |blob| read_entry(&mut archive, entries[blob], u64::MAX)),
        metadata: BTreeMap::new(),
    })
}

/// Reads an entry of at most `limit` bytes, and holds its checksum against it.
fn read_entry<R: Input>(
    archive: &mut ZipArchive<R>,
    at: usize,
    limit: u64,
) -> Result<Vec<u8>, String> {
    let file = archive.by_index(at).map_err(|e| e.to_string())?;
    let (size, name) = (file.size(), String::from_utf8_lossy(file.name_raw()).into_owned());
    if size > limit {
        return Err(format!("its entry {name} has {size} bytes, more than the {limit} allowed"));
    }
    let mut bytes = Vec::new();
    // One byte more is asked for, since only at its end an entry's checksum is looked at.
    let read = file.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| e.to_string());
    read.and_then(|_| whole(bytes, size)).map_err(|e| format!("its entry {name}: {e}"))
}

/// Lists a file of pickles with the storages behind them, as PyTorch wrote before 1.6 and writes
/// when told so.
pub(super) fn list_pickles(input: &mut dyn Input, length: u64) -> Result<Listing<'_>, String> {
    const OLD: &str = "PyTorch's old format, broken or truncated";
    let bytes = read_range(input, 0, length.min(MAX_PICKLE))?;
    let mut at = 0;
    let mut next = || {
        let objects = Objects::read(&bytes[at..]).map_err(|e| format!("{OLD} ({e})"))?;
        at += objects.length;
        Ok::<_, String>(objects)
    };
    let magic = next()?;
    if !matches!(magic.node(magic.root), Node::Long(bytes) if *bytes == MAGIC) {
        return Err("a pickle, but not one of torch.save's".to_string());
    }
    let (_version, system, objects, keys) = (next()?, next()?, next()?, next()?);
    let little = |(key, _): &&(Id, Id)| system.text(*key) == Some("little_endian");
    if let Some(&(_, little)) = system.pairs(system.root).iter().find(little)
        && system.size(little) == Some(0)
    {
        return Err("saved on a big-endian machine, which is not read".to_string());
    }

    let described = (0..objects.len()).filter_map(|id| Storage::of(&objects, id as Id));
    let sizes: HashMap<&str, Option<usize>> =
        described.map(|s| (s.key, s.element.map(Element::size))).collect();
    let (mut storages, mut ranges) = (HashMap::new(), Vec::new());
    let mut position = at as u64;
    for &key in keys.list(keys.root).ok_or(OLD)? {
        let key = keys.text(key).ok_or(OLD)?;
        let size = sizes.get(key).copied().flatten();
        let size = size.ok_or_else(|| format!("storage {key} of a type that is not read"))? as u64;
        let count = read_range(input, position, 8).map_err(|e| format!("{OLD} ({e})"))?;
        let count = count.iter().rev().fold(0u64, |count, &byte| count << 8 | u64::from(byte));
        let end = count.checked_mul(size).and_then(|size| size.checked_add(position + 8));
        let end = end.filter(|&end| end <= length);
        let end = end.ok_or_else(|| format!("{OLD} (storage {key} has {count} elements)"))?;
        storages.insert(key, ranges.len());
        ranges.push((position + 8, end - position - 8));
        position = end;
    }
    Ok(Listing {
        dictionaries: Walk::new(&objects, storages).dictionaries()?,
        blobs: ranges.iter().map(|&(_, size)| size).collect(),
        read: Box::new(move |blob| read_range(input, ranges[blob].0, ranges[blob].1)),
        metadata: BTreeMap::new(),
    })
}

/// What a pickle says of a storage.
struct Storage<'a> {
    key: &'a str,
    /// Unless it has no type of its own, or one that is not read.
    element: Option<Element>,
    class: &'a str,
    /// Elements before those that are meant.
    offset: Option<usize>,
}

impl<'a> Storage<'a> {
    fn of(objects: &Objects<'a>, id: Id) -> Option<Self> {
        let Node::Persistent(id) = objects.node(id) else { return None };
        let &[_, class, key, _, _, ref rest @ ..] = objects.list(*id)? else { return None };
        let Node::Global(_, class) = objects.node(class) else { return None };
        let view = rest.first().and_then(|&view| objects.list(view));
        Some(Self {
            key: objects.text(key)?,
            element: class.strip_suffix("Storage").and_then(Element::of_torch),
            class,
            offset: view.map_or(Some(0), |view| objects.size(*view.get(1)?)),
        })
    }
}

/// A walk through all that was pickled.
struct Walk<'a, 'o> {
    objects: &'o Objects<'a>,
    /// The number of each storage's blob.
    storages: HashMap<&'o str, usize>,
    tensors: usize,
    steps: usize,
}

type Named = BTreeMap<String, Result<Place, String>>;

impl<'a, 'o> Walk<'a, 'o> {
    fn new(objects: &'o Objects<'a>, storages: HashMap<&'o str, usize>) -> Self {
        Self { objects, storages, tensors: 0, steps: 0 }
    }

    /// The tensors of every dictionary, and of every object as PyTorch names a module's.
    fn dictionaries(mut self) -> Result<Vec<Dictionary>, String> {
        let objects = self.objects;
        let mut found = Vec::new();
        // Each with the one that it was found in, and under which key.
        let mut visits = vec![(objects.root, 0, "")];
        let mut seen = vec![false; objects.len()];
        let mut at = 0;
        while let Some(&(id, ..)) = visits.get(at) {
            let mut tensors = self.named(objects.pairs(id))?;
            let mut visit = |id: Id, key: &'a str| {
                if !std::mem::replace(&mut seen[id as usize], true) {
                    visits.push((id, at, key));
                }
            };
            let pairs = objects.pairs(id);
            pairs.iter().for_each(|&(key, value)| visit(value, objects.text(key).unwrap_or("")));
            match objects.node(id) {
                Node::List(items) => items.iter().for_each(|&item| visit(item, "")),
                Node::Object(object) => {
                    visit(object.arguments, "");
                    object.state.into_iter().for_each(|state| visit(state, ""));
                    tensors.append(&mut self.module(id)?);
                }
                _ => {}
            }
            if !tensors.is_empty() {
                found.push(Dictionary { path: path(&visits, at), tensors });
            }
            at += 1;
        }
        Ok(found)
    }

    fn named(&mut self, pairs: &[(Id, Id)]) -> Result<Named, String> {
        let mut named = Named::new();
        for &(key, value) in pairs {
            if let (Some(name), Some(tensor)) = (self.objects.text(key), self.tensor(value)) {
                self.add(&mut named, name.to_string(), tensor)?;
            }
        }
        Ok(named)
    }

    fn add(
        &mut self,
        named: &mut Named,
        name: String,
        tensor: Result<Place, String>,
    ) -> Result<(), String> {
        self.tensors += 1;
        if self.tensors > MAX_TENSORS {
            return Err(format!("more than {MAX_TENSORS} tensors, the most that are read"));
        }
        if name.len() > MAX_NAME {
            return Err(format!("a tensor's name of {} bytes, at most {MAX_NAME}", name.len()));
        }
        // As in Python, the last of a name is the one that stays.
        named.insert(name, tensor);
        Ok(())
    }

    /// The tensors in an object's state, and in those of the objects in it.
    fn module(&mut self, id: Id) -> Result<Named, String> {
        let mut named = Named::new();
        let mut pending = vec![(id, String::new(), 0)];
        while let Some((id, prefix, depth)) = pending.pop() {
            for (key, value) in self.members(id) {
                self.steps += 1;
                if self.steps > MAX_OBJECTS {
                    return Err("modules in each other without end".to_string());
                }
                if let Some(tensor) = self.tensor(value) {
                    self.add(&mut named, format!("{prefix}{key}"), tensor)?;
                } else if depth < MAX_DEPTH && prefix.len() + key.len() < MAX_NAME {
                    pending.push((value, format!("{prefix}{key}."), depth + 1));
                }
            }
        }
        Ok(named)
    }

    /// What an object's state names: of a module its parameters, buffers and modules.
    fn members(&self, id: Id) -> Vec<(&'a str, Id)> {
        let Node::Object(object) = self.objects.node(id) else { return Vec::new() };
        let Some(state) = object.state else { return Vec::new() };
        let pairs = |id: Id| {
            let pairs = self.objects.pairs(id).iter();
            pairs.filter_map(|&(key, value)| Some((self.objects.text(key)?, value)))
        };
        let parts = ["_parameters", "_buffers", "_modules"];
        if !pairs(state).any(|(key, _)| key == "_modules") {
            return pairs(state).collect();
        }
        pairs(state).filter(|(key, _)| parts.contains(key)).flat_map(|(_, id)| pairs(id)).collect()
    }

    /// The tensor that an object is, if it is one.
    fn tensor(&self, mut id: Id) -> Option<Result<Place, String>> {
        let objects = self.objects;
        for _ in 0..MAX_DEPTH {
            let Node::Object(object) = objects.node(id) else { return None };
            let mut function = object.class;
            let mut arguments = objects.list(object.arguments)?;
            if let Node::Global("torch._tensor", "_rebuild_from_type_v2") = objects.node(function) {
                let &[inner, _, rest, ..] = arguments else { return None };
                (function, arguments) = (inner, objects.list(rest)?);
            }
            let Node::Global("torch._utils", function) = *objects.node(function) else {
                return None;
            };
            match function {
                "_rebuild_parameter" | "_rebuild_parameter_with_state" => {
                    id = *arguments.first()?;
                }
                "_rebuild_tensor" | "_rebuild_tensor_v2" => {
                    return Some(self.place(arguments, None));
                }
                "_rebuild_tensor_v3" => {
                    return Some(self.place(arguments, arguments.get(6).copied()));
                }
                other if other.starts_with("_rebuild_") => {
                    return Some(Err(format!("a kind of tensor that is not read ({other})")));
                }
                _ => return None,
            }
        }
        None
    }

    fn place(&self, arguments: &[Id], dtype: Option<Id>) -> Result<Place, String> {
        const MALFORMED: &str = "its place in the file is not described as PyTorch does";
        let objects = self.objects;
        let &[storage, offset, shape, strides, ..] = arguments else {
            return Err(MALFORMED.to_string());
        };
        let storage = Storage::of(objects, storage).ok_or(MALFORMED)?;
        let dtype = dtype.map(|id| match objects.node(id) {
            Node::Global("torch", name) => name,
            _ => "",
        });
        let element = dtype.map_or(storage.element, Element::of_torch);
        let kind = dtype.unwrap_or(storage.class);
        let sizes = |mut id: Id| {
            // A torch.Size is a call with the tuple.
            if let Node::Object(object) = objects.node(id) {
                id = *objects.list(object.arguments)?.first()?;
            }
            let sizes = objects.list(id)?;
            if sizes.len() > MAX_AXES {
                return None;
            }
            sizes.iter().map(|&size| objects.size(size)).collect::<Option<Vec<_>>>()
        };
        let place = || {
            let offset = objects.size(offset)?.checked_add(storage.offset?)?;
            let (shape, strides) = (sizes(shape)?, sizes(strides)?);
            (shape.len() == strides.len()).then_some((offset, shape, strides))
        };
        let (offset, shape, strides) = place().ok_or(MALFORMED)?;
        Ok(Place {
            blob: *self.storages.get(storage.key).ok_or_else(|| {
                let key: String = storage.key.chars().take(TOLD.1).collect();
                format!("its storage {key:?} is not in the file")
            })?,
            element: element.ok_or_else(|| format!("its type {kind} is not read"))?,
            offset,
            shape,
            strides,
        })
    }
}

/// The last keys under which what is visited at `at` lies.
fn path(visits: &[(Id, usize, &str)], mut at: usize) -> Vec<String> {
    let mut keys = Vec::new();
    for _ in 0..MAX_DEPTH {
        let (_, from, key) = visits[at];
        if !key.is_empty() && keys.len() < TOLD.0 {
            keys.push(key.chars().take(TOLD.1).collect());
        }
        at = from;
    }
    keys.reverse();
    keys
}
