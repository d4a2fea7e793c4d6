// The program that `run` is to start: which file a command names, and whether an agent can be preloaded into it.
//
// LD_PRELOAD is the dynamic loader's affair (ld.so(8)): a program without an interpreter never sees it, one of another
// architecture can't load the agent, and one that gains privileges ignores it. Each would run unindexed without a word.
// A script's interpreter is the program then.

import CLibrary
import Glibc

/// A file that can be executed.
struct Program {
  /// The file that is executed: an absolute path, or one relative to the working directory.
  let path: String

  /// What `name` stands for: a path if it has a slash, else the first executable of that name in PATH, as execvp(3).
  init(named name: String) throws(Failure) {
    guard !name.isEmpty else {
      throw Failure(Status.notFound, "cannot run \"\": the command is empty", advice: "name a program after --")
    }
    if name.contains("/") {
      path = name
      try Self.checkExecutable(name, as: name)
      return
    }
    let search = getenv("PATH").map { String(cString: $0) } ?? "/bin:/usr/bin"
    var denied: String?
    for directory in search.split(separator: ":", omittingEmptySubsequences: false) {
      let candidate = directory.isEmpty ? name : "\(directory)/\(name)"
      guard access(candidate, F_OK) == 0, Self.status(candidate).map({ $0.st_mode & S_IFMT == S_IFREG }) == true else {
        continue
      }
      if access(candidate, X_OK) == 0 {
        path = candidate
        return
      }
      denied = denied ?? candidate
    }
    if let denied { try Self.checkExecutable(denied, as: name) }
    throw Failure(
      Status.notFound, "cannot run \(name): no directory of PATH has a program of that name",
      advice: "give its path, or install it")
  }

  private static func status(_ path: String) -> stat? {
    var status = stat()
    return stat(path, &status) == 0 ? status : nil
  }

  private static func checkExecutable(_ path: String, as name: String) throws(Failure) {
    guard let status = status(path) else {
      let code = errno
      throw Failure(
        code == ENOENT || code == ENOTDIR ? Status.notFound : Status.notExecutable,
        "cannot run \(name): \(String(cString: strerror(code)))", advice: "check the path")
    }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw Failure(Status.notExecutable, "cannot run \(path): it is not a file", advice: "name a program")
    }
    guard access(path, X_OK) == 0 else {
      throw Failure(
        Status.notExecutable, "cannot run \(path): \(String(cString: strerror(errno)))",
        advice: "make it executable (chmod +x)")
    }
  }

  // MARK: whether it takes the agent

  /// Throws if the agent can't be preloaded into it.
  func checkPreloadable() throws(Failure) {
    try checkPrivileges()
    try Self.checkFile(path, as: path, depth: 0)
  }

  /// Programs that gain privileges ignore a preloaded library that is named by a path.
  private func checkPrivileges() throws(Failure) {
    guard let status = Self.status(path) else { return }
    let setsUser = status.st_mode & S_ISUID != 0 && status.st_uid != getuid()
    let setsGroup = status.st_mode & S_ISGID != 0 && status.st_mode & S_IXGRP != 0 && status.st_gid != getgid()
    let hasCapabilities = getuid() != 0 && getxattr(path, "security.capability", nil, 0) > 0
    guard !setsUser, !setsGroup, !hasCapabilities else {
      let how = setsUser ? "set-user-id" : setsGroup ? "set-group-id" : "endowed with file capabilities"
      throw Failure(
        Status.notAnswered, "cannot index \(path): it is \(how), so the dynamic loader ignores preloaded libraries",
        advice: "run it as the user whose rights it takes, or start it without allocsctl")
    }
  }

  /// The ELF file that the dynamic loader starts: the program, or the interpreter of a script. Nil if it can't be read.
  var image: String? {
    var image = path
    for _ in 0..<5 {
      guard let file = ProgramFile(path: image) else { return nil }
      switch file.kind {
      case .elf: return image
      case .script(let interpreter): image = interpreter
      case .unknown: return nil
      }
    }
    return nil
  }

  /// A script may name another script; the kernel follows at most five (BINPRM_MAX_RECURSION).
  private static func checkFile(_ path: String, as name: String, depth: Int) throws(Failure) {
    // A program that only the kernel may read may still take the agent.
    guard let file = ProgramFile(path: path) else { return }
    switch file.kind {
    case .script(let interpreter) where depth < 5: try checkFile(interpreter, as: name, depth: depth + 1)
    case .script, .unknown: return
    case .elf(let elf):
      let whose = path == name ? "\(path): it" : "\(name): its interpreter \(path)"
      guard elf.isNative else {
        throw Failure(
          Status.notAnswered, "cannot index \(whose) is a program for another machine (\(elf.description))",
          advice: "run it with the allocsctl and agent of that machine, or without")
      }
      guard elf.hasInterpreter || elf.hasKit else {
        throw Failure(
          Status.notAnswered, "cannot index \(whose) is statically linked, so no agent can be preloaded into it",
          advice: "link it with the agent inside (pkg-config --libs allocs-inexe), or dynamically")
      }
    }
  }
}

/// What a file that is to be executed is, by its first bytes.
private struct ProgramFile {
  enum Kind {
    case elf(ELF)
    case script(interpreter: String)
    case unknown
  }

  struct ELF {
    /// Whether it is for this machine: class, byte order and architecture.
    var isNative: Bool
    /// Whether the dynamic loader starts it (PT_INTERP).
    var hasInterpreter: Bool
    /// Whether the agent is linked into it: a note says so.
    var hasKit: Bool
    var description: String
  }

  let kind: Kind

  /// nil if the file can't be read.
  init?(path: String) {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    func bytes(at offset: UInt64, count: Int) -> [UInt8] {
      guard offset <= UInt64(Int64.max) else { return [] }
      return [UInt8](unsafeUninitializedCapacity: count) { buffer, size in
        size = max(0, pread(descriptor, buffer.baseAddress, count, off_t(offset)))
      }
    }
    let head = bytes(at: 0, count: 256)
    if head.starts(with: "#!".utf8) {
      let line = head.dropFirst(2).prefix { $0 != UInt8(ascii: "\n") }
      let word = line.drop { $0 == 0x20 || $0 == 0x09 }.prefix { $0 != 0x20 && $0 != 0x09 && $0 != 0x0D }
      kind = .script(interpreter: String(decoding: word, as: UTF8.self))
    } else if head.starts(with: [0x7F] + Array("ELF".utf8)), head.count >= 64 {
      kind = .elf(Self.elf(head) { bytes(at: $0, count: $1) })
    } else {
      kind = .unknown
    }
  }

  /// Reads the ELF header and the program headers' types (System V ABI, chapters 4 and 5).
  private static func elf(_ head: [UInt8], _ bytes: (UInt64, Int) -> [UInt8]) -> ELF {
    func value(_ bytes: some Collection<UInt8>) -> UInt64 { bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) } }
    let isWide = head[4] == 2
    let isLittleEndian = head[5] == 1
    #if arch(x86_64)
      let native: UInt64 = 62  // EM_X86_64
    #elseif arch(arm64)
      let native: UInt64 = 183  // EM_AARCH64
    #endif
    let machine = value(isLittleEndian ? Array(head[18..<20]) : head[18..<20].reversed())
    let description = "ELF\(isWide ? 64 : 32), machine \(machine)"
    guard isWide, isLittleEndian, machine == native else {
      return ELF(isNative: false, hasInterpreter: false, hasKit: false, description: description)
    }
    let offset = value(head[32..<40])
    let size = Int(value(head[54..<56]))
    let count = Int(value(head[56..<58]))
    let headers = bytes(offset, size * count)
    /// The program headers of a type: PT_INTERP, PT_NOTE.
    func segments(_ type: UInt64) -> [ArraySlice<UInt8>] {
      guard size >= 56 else { return [] }
      return (0..<count).map { $0 * size }.filter { $0 + size <= headers.count && value(headers[$0..<$0 + 4]) == type }
        .map { headers[$0..<$0 + size] }
    }
    let longestNotes = 4096
    let hasKit = segments(4).contains { segment in
      let start = segment.startIndex
      let fileSize = value(segment[start + 32..<start + 40])
      return Self.hasKitNote(bytes(value(segment[start + 8..<start + 16]), Int(min(fileSize, UInt64(longestNotes)))))
    }
    return ELF(isNative: true, hasInterpreter: !segments(3).isEmpty, hasKit: hasKit, description: description)
  }

  /// Whether a note of "allocs" is among the notes, which are aligned to 4 bytes (or 8, as of the processor's properties).
  private static func hasKitNote(_ notes: [UInt8]) -> Bool {
    let name = [UInt8]("allocs\0".utf8)
    return stride(from: 0, to: max(0, notes.count - 12 - name.count), by: 4).contains { offset in
      notes[offset] == UInt8(name.count) && notes[offset + 12..<offset + 12 + name.count].elementsEqual(name)
    }
  }
}
