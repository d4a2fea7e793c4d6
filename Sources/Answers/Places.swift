// SPDX-License-Identifier: Apache-2.0
// The parts of an answer beyond block and symbol: who mapped the memory, which arena of an allocator holds it, what the
// kernel put there, which frame of a stack holds it.

import IndexReader
import Provenance
import Symbols

extension Answer {
  /// The call of libc's functions that mapped the memory.
  public struct MappedBy: Hashable, Sendable {
    /// The part of the mapped range that is still mapped.
    public var range: Range<UInt64>
    /// `mmap`, `mremap`, `brk` or `sbrk`; nil if not known.
    public var function: ForeignText?
    public var thread: Thread?
    /// Seconds since the call.
    public var age: Double
    /// The permissions that the call asked for, such as `rw-p`; nil if not known.
    public var permissions: String?
    /// Path of the file; nil if no file is mapped, or it is not known.
    public var path: ForeignText?
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
      /// One of the C library's arenas for further threads.
      case thread
      /// Memory that the C library mapped for one block alone.
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
      /// The path by which the program was executed, and similar strings that the kernel puts above the environment.
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
    public var name: ForeignText?
    /// The argument, or the variable's value.
    public var text: ForeignText?
    /// Bytes from the part's start.
    public var offset: UInt64?
    /// Bytes of the part.
    public var size: UInt64?

    init(_ kind: Kind, name: ForeignText? = nil, text: ForeignText? = nil, offset: UInt64? = nil, size: UInt64? = nil) {
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
      /// The frame's own memory: variables, saved registers.
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
    /// The frame's function, and behind it the functions that it is inlined into.
    public var functions: [Frame]
    public var cfa: UInt64?
    /// The local variable or parameter.
    public var variable: Variable?
    /// Seconds for which the thread was stopped, at most.
    public var stopped: Double
  }

  /// The source line of code.
  public struct SourceLine: Hashable, Sendable {
    public var file: ForeignText
    public var line: Int?
  }
}
