//! Plain blocking system calls on the calling thread.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use crate::{BLOCK, Buffer};

pub(crate) fn read(file: &File, mut buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
    let answer = fill(file, &mut buffer, offset);
    (answer, buffer)
}

fn fill(file: &File, buffer: &mut Buffer, offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer.as_mut()[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // A direct read that ends inside a block has met the end of the file; asking on from an
        // unaligned offset would be EINVAL.
        if !filled.is_multiple_of(BLOCK) {
            break;
        }
    }
    buffer.set_len(filled);
    Ok(())
}

pub(crate) fn write(file: &File, buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
    (file.write_all_at(&buffer, offset), buffer)
}
