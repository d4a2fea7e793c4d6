// What an answer says of an address beyond block and symbol: who mapped the memory, which arena of an allocator it is
// in, what the kernel put there, which frame of a stack it is in.

import IndexReader
import Provenance
import Symbols

extension Answer {
  /// Who mapped the memory, with a call of libc's functions.
  public struct MappedBy: Hashable, Sendable {
    /// What is left of what the call mapped.
    public var range: Range<UInt64>
    /// `mmap`, `mremap`, `brk` or `sbrk`; nil if not known.
    public var function: String?
    public var thread: Thread?
    /// Seconds.
    public var age: Double
    /// As asked for: `rw-p`; nil if not known.
    public var permissions: String?
    /// Path of the file; nil if none is mapped, or it is not known.
    public var path: String?
    /// Bytes from the file's start to the first address of `range`.
    public var fileOffset: UInt64?
    /// The call stack; nil if not known, or not asked for.
    public var stack: NamedStack?
  }

  /// A piece of address space that an allocator carves blocks from.
  public struct Arena: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable {
      /// The C library's first arena, which the program break ends.
      case main
      /// One of its arenas for further threads.
      case thread
      /// Memory that it mapped for one block alone.
      case single
      /// Memory that a call from inside an allocation function mapped.
      case mapped
    }
    public var range: Range<UInt64>
    public var kind: Kind
  }

  /// A place that the kernel, the C library or the agent uses for itself.
  public struct Part: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable {
      case argument
      case environment
      /// The list of pointers to the arguments or variables.
      case pointers
      case auxiliaryVector = "auxiliary vector"
      /// The path by which the program was executed, and such that the kernel puts above the environment.
      case kernelStrings = "kernel strings"
      case vdso
      case vvar
      case guardPages = "guard pages"
      /// libc's description of a thread, at its thread pointer.
      case threadDescriptor = "thread descriptor"
      case agent
    }
    public var kind: Kind
    /// Such as `argv[2]`, `PATH`, `AT_RANDOM`.
    public var name: String?
    /// The argument, or the variable's value.
    public var text: String?
    /// Bytes from the part's start.
    public var offset: UInt64?
    /// Bytes.
    public var size: UInt64?

    init(_ kind: Kind, name: String? = nil, text: String? = nil, offset: UInt64? = nil, size: UInt64? = nil) {
      self.kind = kind
      self.name = name
      self.text = text
      self.offset = offset
      self.size = size
    }
  }

  /// The frame of a stack that holds the address, as of the moment when its thread was stopped.
  public struct StackFrame: Hashable, Sendable {
    public enum Role: String, Hashable, Sendable {
      /// In the frame's own memory: variables, saved registers.
      case frame
      case returnAddress = "return address"
      /// Up to 128 bytes below the innermost frame.
      case redZone = "red zone"
      /// Below the stack pointer: left by calls that have returned.
      case unused
    }
    public var role: Role
    /// 0 is the innermost frame.
    public var index: Int
    /// What the frame's function is inlined into follows it.
    public var functions: [Frame]
    public var cfa: UInt64?
    /// The local variable or parameter.
    public var variable: Variable?
    /// For how long the thread was stopped, at most.
    public var stopped: Double
  }

  /// Where code comes from.
  public struct SourceLine: Hashable, Sendable {
    public var file: String
    public var line: Int?
  }
}

// MARK: JSON

extension ByteWriter {
  mutating func append(mappedBy mapped: Answer.MappedBy) {
    append(",\"mapped_by\":{\"start\":\"")
    append(address: mapped.range.lowerBound)
    append("\",\"end\":\"")
    append(address: mapped.range.upperBound)
    append("\"")
    if let function = mapped.function { append(",\"function\":", string: function) }
    if let permissions = mapped.permissions { append(",\"permissions\":", string: permissions) }
    if let path = mapped.path { append(",\"path\":", string: path) }
    if let offset = mapped.fileOffset { append(",\"file_offset\":", decimal: offset) }
    if let thread = mapped.thread { append(thread: thread) }
    append(age: mapped.age)
    if let stack = mapped.stack { append(stack: stack) }
    append("}")
  }

  mutating func append(arena: Answer.Arena) {
    append(",\"arena\":{\"kind\":", string: arena.kind.rawValue)
    append(",\"start\":\"")
    append(address: arena.range.lowerBound)
    append("\",\"end\":\"")
    append(address: arena.range.upperBound)
    append("\"}")
  }

  mutating func append(part: Answer.Part) {
    append(",\"part\":{\"kind\":", string: part.kind.rawValue)
    if let name = part.name { append(",\"name\":", string: name) }
    if let text = part.text { append(",\"text\":", string: text) }
    if let offset = part.offset { append(",\"offset\":", decimal: offset) }
    if let size = part.size { append(",\"size\":", decimal: size) }
    append("}")
  }

  mutating func append(variable: Variable) {
    append(",\"variable\":{\"path\":", string: variable.path)
    if let type = variable.type { append(",\"type\":", string: type) }
    append(",\"offset\":", decimal: variable.offset)
    if let size = variable.size { append(",\"size\":", decimal: size) }
    if variable.isPadding { append(",\"padding\":true") }
    if !variable.alternatives.isEmpty {
      append(",\"alternatives\":[")
      for (index, name) in variable.alternatives.enumerated() {
        if index > 0 { append(",") }
        appendJSONString(name)
      }
      append("]")
    }
    if let file = variable.file { append(",\"file\":", string: file) }
    if let line = variable.line { append(",\"line\":", decimal: UInt64(line)) }
    append("}")
  }

  mutating func append(stackFrame frame: Answer.StackFrame) {
    append(",\"frame\":{\"index\":", decimal: UInt64(frame.index))
    append(",\"role\":", string: frame.role.rawValue)
    if let cfa = frame.cfa {
      append(",\"cfa\":\"")
      append(address: cfa)
      append("\"")
    }
    append(",\"functions\":[")
    for (index, function) in frame.functions.enumerated() {
      if index > 0 { append(",") }
      function.appendJSON(to: &self)
    }
    append("]")
    if let variable = frame.variable { append(variable: variable) }
    append(",\"stopped_seconds\":")
    append(decimal: frame.stopped, places: 6)
    append("}")
  }
}
