// SPDX-License-Identifier: Apache-2.0
// The kind of a file that is to be executed, told by what the kernel looks at: #! and an interpreter, or ELF headers.

import ByteText
import FileFacts
import Symbols

struct ProgramFile {
  enum Kind {
    case elf(ELFProgram)
    /// A script. All text behind the interpreter is one argument.
    case script(interpreter: ForeignText, argument: ForeignText?)
    case unknown
  }

  let kind: Kind

  /// Fails if the file can't be read.
  init?(path: String) {
    guard let opened = try? RegularFile(path: ForeignText(path)) else { return nil }
    let file = ELFBytes(descriptor: opened.descriptor)
    // The kernel reads as much (BINPRM_BUF_SIZE).
    let head = file.bytes(at: 0, count: 256)
    if head.starts(with: "#!".utf8) {
      kind = Self.script(head.dropFirst(2))
    } else if let elf = ELFProgram(head, file) {
      kind = .elf(elf)
    } else {
      kind = .unknown
    }
    // Its descriptor was needed until here.
    withExtendedLifetime(opened) {}
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
      interpreter: ForeignText(reversibly: name),
      argument: argument.isEmpty ? nil : ForeignText(reversibly: argument))
  }
}

/// An ELF executable or loader, as far as it matters to whoever starts it.
struct ELFProgram {
  /// Class, byte order and architecture. Of a program for another machine than this one nothing else is known.
  let machine: ELFMachine
  /// The dynamic loader that it names (PT_INTERP).
  private(set) var interpreter: ForeignText?
  /// Whether it is linked with others when it runs, as programs and libraries are.
  private(set) var isDynamic = false
  /// DT_SONAME
  private(set) var sharedName: ForeignText?
  /// Whether the agent is linked into it: a note says so.
  private(set) var hasKit = false
  /// Whether the Go linker made it: a note says so.
  private(set) var isGo = false
  /// Whether musl's greeting is in it: it is musl's C library, which is its loader, too.
  private(set) var isMusl = false

  /// Whether it is for this machine.
  var isNative: Bool { machine == .native }

  /// nil if the file, which starts with `head`, is no ELF file or cut short.
  fileprivate init?(_ head: [UInt8], _ bytes: ELFBytes) {
    guard let machine = ELFMachine(head) else { return nil }
    self.machine = machine
    guard isNative else { return }
    guard let file = ELFFile(bytes) else { return nil }
    interpreter = file.interpreter
    let owners = Set(file.notes.map(\.owner))
    hasKit = owners.contains("allocs")
    isGo = owners.contains("Go")
    let dynamic = file.dynamic
    isDynamic = dynamic?.linksOthers == true
    sharedName = dynamic?.sharedName
    if interpreter == nil, isDynamic, sharedName == nil { isMusl = Self.contains("musl libc", bytes) }
  }

  /// Whether the text is somewhere in the first megabytes of the file.
  private static func contains(_ text: String, _ file: ELFBytes) -> Bool {
    let (wanted, piece, limit) = (Array(text.utf8), 1 << 16, 4 << 20)
    // bounded: constants, and the length of a text
    for offset in stride(from: 0, to: limit, by: piece) {
      let bytes = file.bytes(at: UInt64(offset), count: piece + wanted.count)
      if bytes.isEmpty { return false }
      if bytes.firstRange(of: wanted) != nil { return true }
    }
    return false
  }
}
