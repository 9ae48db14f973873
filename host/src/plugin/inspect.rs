//! What can be known of a file without executing any of it. Truncated and foreign files kill or confuse the system's loader.

use std::fs::File;
use std::path::Path;

use abi_stable::library::ROOT_MODULE_LOADER_NAME;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, Sym as _};
use object::read::{FileKind, ReadCache, ReadRef};
use object::{Endianness, Object as _, ObjectSymbol as _, macho};

use super::error::PluginError;

const CDYLIB: &str = "build with crate-type = [\"cdylib\"]";
const HEAD_BYTES: u64 = 512;

/// What a file that may be loaded makes one worry about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// Sentences for the operator.
    pub warnings: Vec<String>,
}

/// Looks at a file without executing any of it: a whole library for this system and machine, with a Plugsocket module in it.
///
/// # Errors
/// [`PluginError::NotLoadable`] says what the file is instead; [`PluginError::Files`] when it can't be read.
pub fn inspect(path: &Path) -> Result<Inspection, PluginError> {
    let file = File::open(path).map_err(PluginError::files("open", path))?;
    let metadata = file.metadata().map_err(PluginError::files("read", path))?;
    if !metadata.is_file() {
        return Err(refuse("not a regular file"));
    }
    inspect_data(&ReadCache::new(file), metadata.len())
}

fn inspect_data<'data, R: ReadRef<'data>>(data: R, file_bytes: u64) -> Result<Inspection, PluginError> {
    let head = data.read_bytes_at(0, file_bytes.min(HEAD_BYTES)).map_err(|()| refuse("the file can't be read"))?;
    if head.is_empty() {
        return Err(refuse("the file is empty"));
    }
    let (ours, theirs) = (std::env::consts::OS, "this host runs on");
    match FileKind::parse(data) {
        Ok(FileKind::Elf64) if cfg!(target_os = "macos") => Err(refuse(format!("an ELF library, {theirs} {ours}"))),
        Ok(FileKind::Elf64) => elf(data, file_bytes),
        Ok(FileKind::Elf32) => Err(refuse("a 32-bit library, this host is 64-bit")),
        Ok(FileKind::MachO64 | FileKind::MachOFat32 | FileKind::MachOFat64) if !cfg!(target_os = "macos") => {
            Err(refuse(format!("a macOS library, {theirs} {ours}")))
        }
        Ok(FileKind::MachO64) => macho64(data, file_bytes),
        Ok(FileKind::MachOFat32 | FileKind::MachOFat64) => Ok(Inspection::default()),
        _ => Err(refuse(foreign(head))),
    }
}

/// Words for a file that is no library at all.
fn foreign(head: &[u8]) -> String {
    if head.starts_with(b"!<arch>\n") {
        return format!("this is a static library (.a or .rlib), not a dynamic one; {CDYLIB}");
    }
    if head.starts_with(b"MZ") {
        return format!("this is a Windows library, this host runs on {}", std::env::consts::OS);
    }
    if head.starts_with(b"\x7fELF") {
        return format!("truncated: the file ends within its header, after {} bytes", head.len());
    }
    let is_text = head.iter().all(|byte| *byte >= 0x20 || matches!(byte, b'\n' | b'\r' | b'\t'));
    if is_text {
        return format!("this is a text file, not a library; {CDYLIB}");
    }
    if head.iter().all(|byte| *byte == 0) {
        return "the file starts with zeros: it was not written completely".to_owned();
    }
    format!("this is not a library; {CDYLIB}")
}

fn elf<'data, R: ReadRef<'data>>(data: R, file_bytes: u64) -> Result<Inspection, PluginError> {
    let header = FileHeader64::<Endianness>::parse(data).map_err(|error| damaged(&error))?;
    let endian = header.endian().map_err(|error| damaged(&error))?;
    let machine = header.e_machine(endian);
    if Some(machine) != host_machine() {
        return Err(refuse(format!("built for {}, this host is {}", machine_name(machine), std::env::consts::ARCH)));
    }
    if (endian == Endianness::Little) != cfg!(target_endian = "little") {
        return Err(refuse("built for the other byte order"));
    }
    match header.e_type(endian) {
        elf::ET_DYN => {}
        elf::ET_EXEC => return Err(refuse(format!("this is a program, not a library; {CDYLIB}"))),
        elf::ET_REL => return Err(refuse(format!("this is an object file (.o), not a library; {CDYLIB}"))),
        other => return Err(refuse(format!("not a dynamic library (ELF type {}); {CDYLIB}", other.0))),
    }
    let segments = header.program_headers(endian, data).map_err(|_| truncated("program headers", header.e_phoff(endian), file_bytes))?;
    let mut warnings = Vec::new();
    let mut segments_loaded = 0_usize;
    for segment in segments {
        let end = segment.p_offset(endian).saturating_add(segment.p_filesz(endian));
        if segment.p_type(endian) == elf::PT_LOAD {
            segments_loaded += 1;
            if end > file_bytes {
                return Err(truncated("segment", end, file_bytes));
            }
        }
        if segment.p_type(endian) == elf::PT_INTERP {
            return Err(refuse(format!("this is a program, not a library; {CDYLIB}")));
        }
        if let Ok(Some(entries)) = segment.dynamic(endian, data) {
            let is_static_tls =
                |entry: &&elf::Dyn64<Endianness>| entry.d_tag(endian) == elf::DT_FLAGS && entry.d_val(endian) & elf::DF_STATIC_TLS.0 != 0;
            if entries.iter().any(|entry| is_static_tls(&entry)) {
                warnings.push("it uses static thread-local storage (an allocator like mimalloc?): about 14 loads per process".to_owned());
            }
        }
    }
    if segments_loaded == 0 {
        return Err(refuse("damaged: nothing in it is to be loaded"));
    }
    let sections_end = header.e_shoff(endian).saturating_add(u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian)));
    if sections_end > file_bytes {
        return Err(truncated("section table", sections_end, file_bytes));
    }
    entry_symbol(header, endian, data, &mut warnings)?;
    Ok(Inspection { warnings })
}

fn entry_symbol<'data, R: ReadRef<'data>>(
    header: &'data FileHeader64<Endianness>,
    endian: Endianness,
    data: R,
    warnings: &mut Vec<String>,
) -> Result<(), PluginError> {
    let sections = header.sections(endian, data).map_err(|error| damaged(&error))?;
    let symbols = sections.symbols(endian, data, elf::SHT_DYNSYM).map_err(|error| damaged(&error))?;
    if symbols.is_empty() && sections.is_empty() {
        return Ok(()); // Section headers may be stripped; the loader finds symbols without them.
    }
    let mut found = false;
    for symbol in symbols.iter().filter(|symbol| !symbol.is_undefined(endian)) {
        if symbol.st_bind() == elf::STB_GNU_UNIQUE && !warnings.iter().any(|warning| warning.contains("unique")) {
            warnings.push("it has C++ statics of the `unique` kind: all its versions in one process share them".to_owned());
        }
        if symbols.symbol_name(endian, symbol).is_ok_and(|name| name == ROOT_MODULE_LOADER_NAME.as_bytes()) {
            if symbol.st_type() != elf::STT_OBJECT {
                return Err(refuse("its Plugsocket module is not data: it was not made by `export_plugin!`"));
            }
            found = true;
        }
    }
    if found { Ok(()) } else { Err(no_module()) }
}

fn macho64<'data, R: ReadRef<'data>>(data: R, file_bytes: u64) -> Result<Inspection, PluginError> {
    use object::read::macho::{MachHeader as _, Segment as _};
    let header = macho::MachHeader64::<Endianness>::parse(data, 0).map_err(|error| damaged(&error))?;
    let endian = header.endian().map_err(|error| damaged(&error))?;
    let ours = if cfg!(target_arch = "aarch64") { macho::CPU_TYPE_ARM64 } else { macho::CPU_TYPE_X86_64 };
    if header.cputype(endian) != ours {
        return Err(refuse(format!("built for another processor, this host is {}", std::env::consts::ARCH)));
    }
    if !matches!(header.filetype(endian), macho::MH_DYLIB | macho::MH_BUNDLE) {
        return Err(refuse(format!("this is not a dynamic library; {CDYLIB}")));
    }
    let mut commands = header.load_commands(endian, data, 0).map_err(|error| damaged(&error))?;
    while let Some(command) = commands.next().map_err(|error| damaged(&error))? {
        if let Ok(Some((segment, _))) = command.segment_64() {
            let end = segment.fileoff(endian).saturating_add(segment.filesize(endian));
            if end > file_bytes {
                return Err(truncated("segment", end, file_bytes));
            }
        }
    }
    let file = object::read::macho::MachOFile64::<Endianness, R>::parse(data).map_err(|error| damaged(&error))?;
    let is_entry = |name: &[u8]| name.strip_prefix(b"_") == Some(ROOT_MODULE_LOADER_NAME.as_bytes());
    let found = file.symbols().any(|symbol| symbol.is_definition() && symbol.name_bytes().is_ok_and(is_entry));
    if found { Ok(Inspection::default()) } else { Err(no_module()) }
}

fn host_machine() -> Option<elf::Machine> {
    match std::env::consts::ARCH {
        "x86_64" => Some(elf::EM_X86_64),
        "aarch64" => Some(elf::EM_AARCH64),
        "riscv64" => Some(elf::EM_RISCV),
        "powerpc64" => Some(elf::EM_PPC64),
        "s390x" => Some(elf::EM_S390),
        "loongarch64" => Some(elf::EM_LOONGARCH),
        _ => None,
    }
}

fn machine_name(machine: elf::Machine) -> String {
    match machine {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_RISCV => "riscv".to_owned(),
        elf::EM_PPC64 => "powerpc64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        elf::EM_LOONGARCH => "loongarch64".to_owned(),
        elf::EM_386 => "x86".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        other => format!("machine {}", other.0),
    }
}

fn refuse(reason: impl Into<String>) -> PluginError {
    PluginError::NotLoadable(reason.into())
}

fn damaged(error: &object::read::Error) -> PluginError {
    refuse(format!("damaged: {error}"))
}

fn truncated(part: &str, end: u64, file_bytes: u64) -> PluginError {
    refuse(format!("truncated: {part} ends at byte {end} but the file has {file_bytes} bytes"))
}

fn no_module() -> PluginError {
    refuse("no Plugsocket module in it: is `export_plugin!` there?")
}

#[cfg(test)]
mod tests;
