//! Safetensors files as this program takes and writes them: the header's JSON is read by hand, because a JSON library is
//! most of what the format would cost a visitor to download. Stricter than the format where nobody writes otherwise: no
//! unknown fields, no escapes by number; and names are compared as they are written, so one with escapes is none of ours.
//! Which tensors a file must hold is not known here.

/// A parsed file; tensors in the header's order.
pub struct File<'a> {
    pub tensors: Vec<Tensor<'a>>,
}

/// A tensor of a file.
pub struct Tensor<'a> {
    pub name: &'a str,
    /// The element type's name in the header; whether it is one that exists is not checked.
    pub dtype: &'a str,
    pub shape: Vec<usize>,
    /// For F32, F16 and U8 as many bytes as shape and type say.
    pub data: &'a [u8],
}

/// Why bytes are no such file.
pub type Fault = &'static str;

/// Where a tensor's bytes are, by the header.
struct Entry<'a> {
    name: &'a str,
    dtype: &'a str,
    shape: Vec<usize>,
    begin: usize,
    end: usize,
}

impl<'a> File<'a> {
    /// Parses a whole file. Tensors cover all bytes after the header, without gaps and without sharing any.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or("no length of a header")?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| "a header without end")?;
        let (header, data) = rest.split_at_checked(length).ok_or("the header is cut off")?;
        let text = str::from_utf8(header).map_err(|_| "the header is not UTF-8")?;
        let entries = Reader { text, at: 0 }.header()?;
        check_cover(&entries, data.len())?;
        let tensor = |Entry { name, dtype, shape, begin, end }| Tensor { name, dtype, shape, data: &data[begin..end] };
        Ok(Self { tensors: entries.into_iter().map(tensor).collect() })
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor<'a>> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// That the entries, in the order of their bytes, follow one another from the first byte to the last, each as long as its
/// shape says.
fn check_cover(entries: &[Entry], bytes: usize) -> Result<(), Fault> {
    let mut order: Vec<&Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        let after = order.iter().rposition(|other| (other.begin, other.end) <= (entry.begin, entry.end));
        order.insert(after.map_or(0, |i| i + 1), entry);
    }
    let mut next = 0;
    for entry in order {
        if entry.begin != next || entry.end < entry.begin {
            return Err("data offsets leave gaps or overlap");
        }
        let each = match entry.dtype {
            "F32" => Some(4),
            "F16" => Some(2),
            "U8" => Some(1),
            // Refused by whoever asks for the tensor.
            _ => None,
        };
        let values = entry.shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        if let Some(each) = each
            && values.and_then(|values| values.checked_mul(each)) != Some(entry.end - entry.begin)
        {
            return Err("a tensor's data offsets do not fit its shape");
        }
        next = entry.end;
    }
    if next == bytes { Ok(()) } else { Err("the tensors do not end where the file does") }
}

/// A position in the header.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte after white space.
    fn next(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.next() != Some(byte) {
            return Err("the header is not the JSON of a safetensors file");
        }
        self.at += 1;
        Ok(())
    }

    /// What stands between two quotes, escapes and all.
    fn string(&mut self) -> Result<&'a str, Fault> {
        self.expect(b'"')?;
        let begin = self.at;
        loop {
            match self.peek() {
                None | Some(..b' ') => return Err("a string in the header does not end"),
                Some(b'"') => break,
                Some(b'\\') => {
                    let escaped = self.text.as_bytes().get(self.at + 1);
                    escaped.filter(|byte| b"\"\\/bfnrt".contains(byte)).ok_or("an escape in the header is not known")?;
                    self.at += 2;
                }
                Some(_) => self.at += 1,
            }
        }
        let text = self.text.get(begin..self.at).ok_or("a string in the header does not end")?;
        self.at += 1;
        Ok(text)
    }

    fn number(&mut self) -> Result<usize, Fault> {
        self.next();
        let begin = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = &self.text[begin..self.at];
        let leading_zero = digits.len() > 1 && digits.starts_with('0');
        digits.parse().ok().filter(|_| !leading_zero).ok_or("an extent or offset is not a whole number in range")
    }

    /// Items between brackets or braces, separated by commas.
    fn items(&mut self, [open, close]: [u8; 2], mut item: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.expect(open)?;
        if self.next() != Some(close) {
            item(self)?;
            while self.next() == Some(b',') {
                self.at += 1;
                item(self)?;
            }
        }
        self.expect(close)
    }

    fn numbers(&mut self) -> Result<Vec<usize>, Fault> {
        let mut numbers = Vec::new();
        self.items(*b"[]", |reader| {
            numbers.push(reader.number()?);
            Ok(())
        })?;
        Ok(numbers)
    }

    fn header(mut self) -> Result<Vec<Entry<'a>>, Fault> {
        let mut entries = Vec::new();
        self.items(*b"{}", |reader| {
            let name = reader.string()?;
            reader.expect(b':')?;
            if name == "__metadata__" {
                return reader.items(*b"{}", |reader| {
                    reader.string()?;
                    reader.expect(b':')?;
                    reader.string().map(drop)
                });
            }
            if entries.iter().any(|entry: &Entry| entry.name == name) {
                return Err("two tensors have one name");
            }
            entries.push(reader.entry(name)?);
            Ok(())
        })?;
        if self.next().is_some() { Err("the header goes on after its end") } else { Ok(entries) }
    }

    fn entry(&mut self, name: &'a str) -> Result<Entry<'a>, Fault> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        self.items(*b"{}", |reader| {
            let field = reader.string()?;
            reader.expect(b':')?;
            let fresh = match field {
                "dtype" => dtype.replace(reader.string()?).is_none(),
                "shape" => shape.replace(reader.numbers()?).is_none(),
                "data_offsets" => offsets.replace(reader.numbers()?).is_none(),
                _ => false,
            };
            if fresh { Ok(()) } else { Err("a tensor has a field that is not known, or one twice") }
        })?;
        match (dtype, shape, offsets.as_deref()) {
            (Some(dtype), Some(shape), Some(&[begin, end])) => Ok(Entry { name, dtype, shape, begin, end }),
            _ => Err("a tensor lacks its type, shape or offsets"),
        }
    }
}

/// Writes f32 tensors by name, the header filled up with spaces to a multiple of 8, as the `safetensors` library does. Names
/// need no escapes, shapes fit their values: the caller's own data.
pub fn write(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let mut order: Vec<&(&str, &[usize], &[f32])> = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let after = order.iter().rposition(|other| other.0 <= tensor.0);
        order.insert(after.map_or(0, |i| i + 1), tensor);
    }
    let (mut header, mut end) = (String::new(), 0);
    for (name, shape, values) in &order {
        header.push(if header.is_empty() { '{' } else { ',' });
        let (begin, shape) = (end, shape.iter().map(usize::to_string).collect::<Vec<_>>().join(","));
        end += values.len() * 4;
        header += &format!(r#""{name}":{{"dtype":"F32","shape":[{shape}],"data_offsets":[{begin},{end}]}}"#);
    }
    header += if order.is_empty() { "{}" } else { "}" };
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header.as_bytes());
    // Little-endian, as is every platform that wgpu and wasm run on.
    order.iter().for_each(|(_, _, values)| bytes.extend_from_slice(bytemuck::cast_slice(values)));
    bytes
}

#[cfg(target_endian = "big")]
compile_error!("tensors are written by reinterpreting f32 as little-endian bytes");

#[cfg(test)]
mod tests {
    use safetensors::tensor::{Dtype, SafeTensors, TensorView};

    use super::*;

    /// What the library says of the same bytes.
    fn agrees(bytes: &[u8]) -> bool {
        let Ok(file) = File::parse(bytes) else { return true };
        let Ok(theirs) = SafeTensors::deserialize(bytes) else { return false };
        theirs.len() == file.tensors.len()
            && file.tensors.iter().all(|ours| {
                let Ok(theirs) = theirs.tensor(ours.name) else { return false };
                format!("{:?}", theirs.dtype()) == ours.dtype && theirs.shape() == ours.shape && theirs.data() == ours.data
            })
    }

    fn example() -> Vec<u8> {
        let bytes: Vec<u8> = (0..24).collect();
        let f32s = TensorView::new(Dtype::F32, vec![2, 2], &bytes[..16]).unwrap();
        let u8s = TensorView::new(Dtype::U8, vec![8], &bytes[16..]).unwrap();
        let metadata = [("note".to_owned(), "a \"word\" \\ü".to_owned())].into();
        safetensors::serialize([("w", f32s), ("y", u8s)], Some(metadata)).unwrap()
    }

    /// What this takes, the library takes, and both find the same in it.
    #[test]
    fn no_bent_file_is_read_otherwise_than_the_library_reads_it() {
        let good = example();
        assert!(File::parse(&good).is_ok() && agrees(&good));
        let header = good.len() - 24;
        let mut taken = 0;
        for at in 0..header {
            for byte in 0..=255 {
                let mut bent = good.clone();
                bent[at] = byte;
                // What stands in strings that name something may differ: a type that does not exist is refused later.
                let known = |file: File| file.tensors.iter().all(|t| matches!(t.dtype, "F32" | "F16" | "U8"));
                if File::parse(&bent).is_ok_and(known) {
                    taken += 1;
                    assert!(agrees(&bent), "byte {at} as {byte}: {}", String::from_utf8_lossy(&bent[8..header]));
                }
            }
            assert!(File::parse(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(taken > header, "{taken}");
    }

    #[test]
    fn files_are_the_librarys_byte_for_byte() {
        let values: Vec<f32> = (0..7).map(|i| i as f32).collect();
        let tensors: [(&str, &[usize], &[f32]); 4] =
            [("b", &[2, 3], &values[..6]), ("10.weight", &[], &values[..1]), ("9", &[7], &values), ("z", &[0, 4], &[])];
        for count in 0..=tensors.len() {
            let views = tensors[..count].iter().map(|&(name, shape, values)| {
                (name, TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values)).unwrap())
            });
            assert_eq!(write(&tensors[..count]), safetensors::serialize(views, None).unwrap(), "{count} tensors");
        }
    }

    #[test]
    fn tensors_may_stand_in_any_order() {
        let header = r#" { "b" : {"data_offsets":[4,8],"shape":[4],"dtype":"U8"}, "e":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},
            "a": {"dtype":"F32","shape":[],"data_offsets":[0,4]} } "#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0, 0, 128, 63, 1, 2, 3, 4]);
        let file = File::parse(&bytes).unwrap();
        assert!(agrees(&bytes));
        assert_eq!(file.tensor("b").map(|t| t.data), Some(&[1, 2, 3, 4][..]));
        assert_eq!(file.tensor("a").map(|t| t.data), Some(&1.0f32.to_le_bytes()[..]));
        assert!(file.tensor("c").is_none());
    }
}
