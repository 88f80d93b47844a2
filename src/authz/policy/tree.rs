//! Expression trees as Postgres stores them.
//!
//! A `pg_node_tree` is the text that `outfuncs.c` writes: `{NAME :field value ..}`, lists `(..)`, `<>` for NULL, datums
//! as `length [ bytes ]`. It is read without knowing the nodes, by the rules of `pg_strtok`; their meaning is found in
//! [`lower`](super::lower).

use std::borrow::Cow;

/// How deep braces and brackets nest at most: whoever walks a tree does so by recursion.
const DEPTH_MAX: usize = 200;

/// Why a text is no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("it ends too early")]
    End,
    #[error("unexpected {token:?} at byte {at}")]
    Unexpected { token: String, at: usize },
    #[error("it nests deeper than {DEPTH_MAX}")]
    Depth,
    #[error("{node} has no {field} as expected")]
    Field { node: String, field: &'static str },
}

/// A value in a tree.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree<'a> {
    /// `<>`.
    Null,
    /// A number, a flag, a name or a string, as it is written.
    Atom(&'a str),
    Node(Node<'a>),
    /// A list of nodes or strings; of integers, OIDs or a bitmap set with its letter first.
    List(Vec<Tree<'a>>),
    /// The bytes of a constant, in the server's order. `length` says how many count.
    Datum {
        length: usize,
        bytes: Vec<u8>,
    },
}

/// `{NAME :field value ..}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<'a> {
    /// The name that the newest version writes.
    pub name: &'a str,
    fields: Vec<(&'a str, Tree<'a>)>,
}

/// Reads a whole text.
pub fn read(text: &str) -> Result<Tree<'_>, TreeError> {
    let mut reader = Reader::new(text);
    let first = reader.token().ok_or(TreeError::End)?;
    let tree = reader.value(first, 0)?;
    match reader.token() {
        None => Ok(tree),
        Some(token) => Err(reader.unexpected(token)),
    }
}

impl<'a> Tree<'a> {
    pub fn as_node(&self) -> Option<&Node<'a>> {
        match self {
            Tree::Node(node) => Some(node),
            _ => None,
        }
    }

    /// NULL is the empty list.
    pub fn as_list(&self) -> Option<&[Tree<'a>]> {
        match self {
            Tree::Null => Some(&[]),
            Tree::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Tree::Atom(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A string, without its quotes and backslashes.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        let Tree::Atom(text) = *self else { return None };
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        if !inner.contains('\\') {
            return Some(Cow::Borrowed(inner));
        }
        let mut plain = String::with_capacity(inner.len());
        let mut characters = inner.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => plain.extend(characters.next()),
                _ => plain.push(character),
            }
        }
        Some(Cow::Owned(plain))
    }

    /// The numbers of `(i 1 2)`, `(o 1 2)` or `(b 1 2)`.
    pub fn as_numbers(&self) -> Option<Vec<i64>> {
        let items = self.as_list()?;
        let items = match items.first() {
            Some(Tree::Atom("i" | "o" | "b" | "x")) => &items[1..],
            _ => items,
        };
        items.iter().map(Tree::as_int).collect()
    }

    /// What a field holds that says nothing: added by another version, it would change nothing.
    fn is_idle(&self) -> bool {
        match self {
            Tree::Null => true,
            Tree::Atom(text) => matches!(*text, "false" | "0" | "-1" | "\"\""),
            Tree::List(items) => items.is_empty() || matches!(items[..], [Tree::Atom("b")]),
            _ => false,
        }
    }
}

impl<'a> Node<'a> {
    pub fn field(&self, name: &'static str) -> Option<&Tree<'a>> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    pub fn values(&self) -> impl Iterator<Item = &Tree<'a>> {
        self.fields.iter().map(|(_, value)| value)
    }

    fn missing(&self, field: &'static str) -> TreeError {
        TreeError::Field { node: self.name.to_owned(), field }
    }

    pub fn node(&self, name: &'static str) -> Result<&Node<'a>, TreeError> {
        self.field(name).and_then(Tree::as_node).ok_or_else(|| self.missing(name))
    }

    /// `None`: the field is NULL.
    pub fn optional(&self, name: &'static str) -> Result<Option<&Node<'a>>, TreeError> {
        match self.field(name) {
            Some(Tree::Null) => Ok(None),
            Some(Tree::Node(node)) => Ok(Some(node)),
            _ => Err(self.missing(name)),
        }
    }

    pub fn list(&self, name: &'static str) -> Result<&[Tree<'a>], TreeError> {
        self.field(name).and_then(Tree::as_list).ok_or_else(|| self.missing(name))
    }

    pub fn int(&self, name: &'static str) -> Result<i64, TreeError> {
        self.field(name).and_then(Tree::as_int).ok_or_else(|| self.missing(name))
    }

    pub fn oid(&self, name: &'static str) -> Result<u32, TreeError> {
        self.int(name)?.try_into().map_err(|_| self.missing(name))
    }

    /// A flag. One that this version of Postgres does not write is false.
    pub fn flag(&self, name: &'static str) -> Result<bool, TreeError> {
        match self.field(name) {
            None | Some(Tree::Atom("false")) => Ok(false),
            Some(Tree::Atom("true")) => Ok(true),
            _ => Err(self.missing(name)),
        }
    }

    pub fn text(&self, name: &'static str) -> Result<Cow<'a, str>, TreeError> {
        self.field(name).and_then(Tree::as_str).ok_or_else(|| self.missing(name))
    }

    /// The first field that is not among the known ones and says something.
    pub fn unknown_field(&self, known: &[&str]) -> Option<&'a str> {
        let says = |(name, value): &&(&str, Tree)| !known.contains(name) && !value.is_idle();
        self.fields.iter().find(says).map(|(name, _)| *name)
    }
}

/// 14's names for what 15 and newer name otherwise.
fn canonical(name: &str) -> &str {
    match name {
        "RTE" => "RANGETBLENTRY",
        "CASE" => "CASEEXPR",
        "WHEN" => "CASEWHEN",
        "ARRAY" => "ARRAYEXPR",
        "COALESCE" => "COALESCEEXPR",
        "MINMAX" => "MINMAXEXPR",
        "COLLATE" => "COLLATEEXPR",
        "ROW" => "ROWEXPR",
        "ROWCOMPARE" => "ROWCOMPAREEXPR",
        _ => name,
    }
}

/// The tokens of a tree's text.
pub(in crate::authz) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(in crate::authz) fn new(text: &'a str) -> Reader<'a> {
        Reader { text, at: 0 }
    }

    /// As `pg_strtok` takes it: blanks separate, brackets stand alone, a backslash protects what follows.
    pub(in crate::authz) fn token(&mut self) -> Option<&'a str> {
        let rest = &self.text[self.at..];
        let text = rest.trim_start_matches([' ', '\n', '\t']);
        let start = self.at + (rest.len() - text.len());
        let mut bytes = text.bytes().enumerate();
        let mut end = text.len();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'(' | b')' | b'{' | b'}' if at == 0 => {
                    end = 1;
                    break;
                }
                b' ' | b'\n' | b'\t' | b'(' | b')' | b'{' | b'}' => {
                    end = at;
                    break;
                }
                b'\\' => drop(bytes.next()),
                _ => {}
            }
        }
        // A backslash may protect the first byte of a longer character, never its middle: `end` is a boundary.
        let token = text.get(..end).filter(|token| !token.is_empty())?;
        self.at = start + end;
        Some(token)
    }

    fn unexpected(&self, token: &str) -> TreeError {
        TreeError::Unexpected { token: token.chars().take(40).collect(), at: self.at - token.len() }
    }

    fn next(&mut self) -> Result<&'a str, TreeError> {
        self.token().ok_or(TreeError::End)
    }

    /// The value that begins with this token.
    fn value(&mut self, token: &'a str, depth: usize) -> Result<Tree<'a>, TreeError> {
        if depth > DEPTH_MAX {
            return Err(TreeError::Depth);
        }
        match token {
            "{" => self.node(depth).map(Tree::Node),
            "(" => self.list(depth).map(Tree::List),
            "<>" => Ok(Tree::Null),
            ")" | "}" => Err(self.unexpected(token)),
            _ => self.atom_or_datum(token),
        }
    }

    fn node(&mut self, depth: usize) -> Result<Node<'a>, TreeError> {
        let name = match self.next()? {
            token @ ("{" | "}" | "(" | ")") => return Err(self.unexpected(token)),
            name => canonical(name),
        };
        let mut fields = Vec::new();
        loop {
            let token = self.next()?;
            if token == "}" {
                return Ok(Node { name, fields });
            }
            let field = token.strip_prefix(':').ok_or_else(|| self.unexpected(token))?;
            let first = self.next()?;
            fields.push((field, self.value(first, depth + 1)?));
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Tree<'a>>, TreeError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                ")" => return Ok(items),
                token => items.push(self.value(token, depth + 1)?),
            }
        }
    }

    fn atom_or_datum(&mut self, token: &'a str) -> Result<Tree<'a>, TreeError> {
        let before = self.at;
        if !token.bytes().all(|byte| byte.is_ascii_digit()) || self.token() != Some("[") {
            self.at = before;
            return Ok(Tree::Atom(token));
        }
        let length = token.parse().map_err(|_| self.unexpected(token))?;
        let mut bytes = Vec::new();
        loop {
            let token = self.next()?;
            if token == "]" {
                return Ok(Tree::Datum { length, bytes });
            }
            // `char` is signed on most servers, unsigned on others.
            let byte: i16 = token.parse().map_err(|_| self.unexpected(token))?;
            let byte = u8::try_from(byte).or_else(|_| i8::try_from(byte).map(|byte| byte as u8));
            bytes.push(byte.map_err(|_| self.unexpected(token))?);
        }
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
