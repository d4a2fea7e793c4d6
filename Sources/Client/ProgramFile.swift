// The kind of a file that is to be executed, told by what the kernel looks at: #! and an interpreter, or ELF headers
// (System V ABI, chapters 4 and 5). The file is foreign: each number in it is checked before it is used.

import ByteText
import Glibc

struct ProgramFile {
  enum Kind {
    case elf(ELFProgram)
    /// A script. All text behind the interpreter is one argument.
    case script(interpreter: String, argument: String?)
    case unknown
  }

  let kind: Kind

  /// Fails if the file can't be read.
  init?(path: String) {
    // Without O_NONBLOCK, opening a pipe would wait for its writer.
    let descriptor = open(path.originalPath, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    let file = FileBytes(descriptor: descriptor)
    // The kernel reads as much (BINPRM_BUF_SIZE).
    let head = file.bytes(at: 0, count: 256)
    if head.starts(with: "#!".utf8) {
      kind = Self.script(head.dropFirst(2))
    } else if head.starts(with: [0x7F] + Array("ELF".utf8)), let elf = ELFProgram(head, file) {
      kind = .elf(elf)
    } else {
      kind = .unknown
    }
  }

  /// Reads the first line as the kernel does (fs/binfmt_script.c). A carriage return is a part of the name.
  private static func script(_ text: ArraySlice<UInt8>) -> Kind {
    func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }
    var line = text.prefix { $0 != UInt8(ascii: "\n") && $0 != 0 }.drop(while: isBlank)
    while line.last.map(isBlank) == true { line.removeLast() }
    let name = line.prefix { !isBlank($0) }
    guard !name.isEmpty else { return .unknown }
    let argument = line.dropFirst(name.count).drop(while: isBlank)
    return .script(
      interpreter: String(reversibly: name), argument: argument.isEmpty ? nil : String(reversibly: argument))
  }
}

/// Reads bytes of a file at any offset.
private struct FileBytes {
  let descriptor: Int32

  /// At most `count` bytes at `offset`, fewer at the file's end; none at an offset that no file has.
  func bytes(at offset: UInt64, count: Int) -> [UInt8] {
    guard let place = off_t(exactly: offset), count > 0 else { return [] }
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, size in
      size = max(0, pread(descriptor, buffer.baseAddress, count, place))
    }
  }

  /// The bytes at `offset` up to a zero.
  func text(at offset: UInt64, limit: Int = 4096) -> String {
    String(reversibly: bytes(at: offset, count: limit).prefix { $0 != 0 })
  }
}

/// An ELF executable or loader, as far as it matters to whoever starts it.
struct ELFProgram {
  /// Whether it is for this machine: class, byte order and architecture.
  let isNative: Bool
  /// Its architecture, in a word or two.
  let machine: String
  /// The dynamic loader that it names (PT_INTERP).
  private(set) var interpreter: String?
  /// Whether it is linked with others when it runs, as programs and libraries are; a static program is not, though one
  /// that can lie anywhere has a table for that (PT_DYNAMIC).
  private(set) var isDynamic = false
  /// DT_SONAME
  private(set) var sharedName: String?
  /// Whether the agent is linked into it: a note says so.
  private(set) var hasKit = false
  /// Whether the Go linker made it: a note says so.
  private(set) var isGo = false
  /// Whether musl's greeting is in it: it is musl's C library, which is its loader, too.
  private(set) var isMusl = false

  static let nativeMachine = name(ofMachine: native, isWide: true, isLittleEndian: true)

  #if arch(x86_64)
    private static let native: UInt64 = 62  // EM_X86_64
  #elseif arch(arm64)
    private static let native: UInt64 = 183  // EM_AARCH64
  #endif

  private enum SegmentType {
    static let load: UInt64 = 1
    static let dynamic: UInt64 = 2
    static let interpreter: UInt64 = 3
    static let note: UInt64 = 4
  }

  private struct ProgramHeader {
    var type: UInt64
    var offset: UInt64
    var address: UInt64
    var fileSize: UInt64
  }

  /// nil if the file is cut short.
  fileprivate init?(_ head: [UInt8], _ file: FileBytes) {
    guard head.count >= 20 else { return nil }
    let isWide = head[4] == 2
    let isLittleEndian = head[5] == 1
    let number = Self.value(isLittleEndian ? Array(head[18..<20]) : head[18..<20].reversed())
    machine = Self.name(ofMachine: number, isWide: isWide, isLittleEndian: isLittleEndian)
    isNative = isWide && isLittleEndian && number == Self.native
    guard isNative else { return }
    guard head.count >= 64 else { return nil }
    let headers = Self.programHeaders(head, file)
    guard !headers.isEmpty else { return nil }
    if let header = headers.first(where: { $0.type == SegmentType.interpreter }) {
      interpreter = file.text(at: header.offset, limit: Int(min(4096, max(1, header.fileSize))))
    }
    for header in headers where header.type == SegmentType.note {
      let longestNotes: UInt64 = 4096
      let notes = file.bytes(at: header.offset, count: Int(min(header.fileSize, longestNotes)))
      hasKit = hasKit || Self.hasNote(of: "allocs", notes)
      isGo = isGo || Self.hasNote(of: "Go", notes)
    }
    readDynamic(headers, file)
    if interpreter == nil, isDynamic, sharedName == nil { isMusl = Self.contains("musl libc", file) }
  }

  private static func value(_ bytes: some Collection<UInt8>) -> UInt64 {
    bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }

  private static func programHeaders(_ head: [UInt8], _ file: FileBytes) -> [ProgramHeader] {
    let size = Int(value(head[54..<56]))
    let count = Int(value(head[56..<58]))
    guard size >= 56 else { return [] }
    let table = file.bytes(at: value(head[32..<40]), count: size * count)
    return stride(from: 0, to: table.count - size + 1, by: size).map { start in
      ProgramHeader(
        type: value(table[start..<start + 4]), offset: value(table[start + 8..<start + 16]),
        address: value(table[start + 16..<start + 24]), fileSize: value(table[start + 32..<start + 40]))
    }
  }

  private mutating func readDynamic(_ headers: [ProgramHeader], _ file: FileBytes) {
    guard let dynamic = headers.first(where: { $0.type == SegmentType.dynamic }) else { return }
    let (needed, strings, sharedNameTag, flags): (UInt64, UInt64, UInt64, UInt64) = (1, 5, 14, 0x6FFF_FFFB)
    let (isPIE, mostEntries): (UInt64, UInt64) = (0x0800_0000, 4096)
    let entries = file.bytes(at: dynamic.offset, count: Int(min(dynamic.fileSize, mostEntries * 16)))
    var found: [UInt64: UInt64] = [:]
    for start in stride(from: 0, to: entries.count - 15, by: 16) {
      let tag = Self.value(entries[start..<start + 8])
      if tag == 0 { break }
      found[tag] = Self.value(entries[start + 8..<start + 16])
    }
    // A static program's table names no library, and says that it is a program.
    isDynamic = found[needed] != nil || found[sharedNameTag] != nil || (found[flags] ?? 0) & isPIE == 0
    guard let name = found[sharedNameTag], let table = found[strings],
      let segment = headers.first(where: {
        $0.type == SegmentType.load && table >= $0.address && table - $0.address < $0.fileSize
      })
    else { return }
    sharedName = file.text(at: segment.offset &+ (table - segment.address) &+ name)
  }

  /// Whether a note of this owner is among the notes, which are aligned to 4 bytes (or 8, as of the processor's
  /// properties).
  private static func hasNote(of owner: String, _ notes: [UInt8]) -> Bool {
    let name = Array(owner.utf8) + [0]
    return stride(from: 0, to: max(0, notes.count - 12 - name.count + 1), by: 4).contains { offset in
      value(notes[offset..<offset + 4]) == UInt64(name.count)
        && notes[offset + 12..<offset + 12 + name.count].elementsEqual(name)
    }
  }

  /// Whether the text is somewhere in the first megabytes of the file.
  private static func contains(_ text: String, _ file: FileBytes) -> Bool {
    let (wanted, piece, limit) = (Array(text.utf8), 1 << 16, 4 << 20)
    for offset in stride(from: 0, to: limit, by: piece) {
      let bytes = file.bytes(at: UInt64(offset), count: piece + wanted.count)
      if bytes.isEmpty { return false }
      if bytes.firstRange(of: wanted) != nil { return true }
    }
    return false
  }

  /// e_machine of machines that Linux runs on.
  private static func name(ofMachine number: UInt64, isWide: Bool, isLittleEndian: Bool) -> String {
    let name: String? =
      switch number {
      case 2, 18, 43: "sparc"
      case 3: "i386"
      case 4: "m68k"
      case 8: "mips"
      case 15: "parisc"
      case 20, 21: "powerpc"
      case 22: "s390"
      case 40: "arm"
      case 42: "sh"
      case 50: "ia64"
      case 62: "x86-64"
      case 183: "aarch64"
      case 243: "riscv"
      case 258: "loongarch"
      default: nil
      }
    let usual = name == "i386" || name == "arm" || name == "m68k" || name == "sh" ? !isWide : isWide
    let isBig = ["sparc", "m68k", "parisc", "powerpc", "s390", "mips"].contains(name ?? "")
    var words = name ?? "machine \(number)"
    if name == nil || !usual || ["mips", "powerpc", "riscv", "sparc", "loongarch"].contains(words) {
      words += isWide ? ", 64-bit" : ", 32-bit"
    }
    if isLittleEndian == isBig { words += isLittleEndian ? ", little-endian" : ", big-endian" }
    return words
  }
}
