// SPDX-License-Identifier: Apache-2.0
// The program that `run` is to start: which file a command names, and whether an agent can be preloaded into it.
//
// The dynamic loader (ld.so(8)) is what reads LD_PRELOAD. A program without a loader never sees it; a loader of another
// C library or machine can't load the agent; and the loader of a program that gains privileges ignores it. Each such
// program would run unindexed without a word, or not at all. Of a script, the interpreter is the program; of `ld.so
// PROG`, PROG is the program.

import ByteText
import CLibrary
import Glibc
import Symbols
import SystemAccess

/// A command, and the file that it names.
struct Program {
  /// The program's name as it was given, and its arguments.
  let command: [String]
  /// The file that is executed: an absolute path, or a path relative to the working directory.
  let path: String

  /// Finds the file. The first word of `command` is a path if it has a slash, else the name of an executable that is
  /// looked for in PATH, as execvp(3) does.
  init(_ command: [String]) throws(Complaint) {
    guard let name = command.first, !name.isEmpty else {
      throw Complaint(
        .programNotFound, what: "cannot run \"\": the command is empty", advice: "name a program after --")
    }
    self.command = command
    if name.utf8.contains(UInt8(ascii: "/")) {
      path = name
      try Self.checkExecutable(name, as: name)
      return
    }
    let search = Variables.value(of: "PATH") ?? "/bin:/usr/bin"
    var denied: String?
    for directory in search.utf8.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false) {
      let candidate = directory.isEmpty ? name : "\(String(Substring(directory)))/\(name)"
      guard Self.status(candidate).map({ $0.st_mode & S_IFMT == S_IFREG }) == true else { continue }
      if access(candidate.originalPath, X_OK) == 0 {
        path = candidate
        return
      }
      denied = denied ?? candidate
    }
    if let denied { try Self.checkExecutable(denied, as: name) }
    throw Complaint(
      .programNotFound, what: "cannot run \(name): no directory of PATH has a program of that name",
      advice: "give its path, or install it")
  }

  fileprivate static func status(_ path: String) -> stat? {
    var status = stat()
    return stat(path.originalPath, &status) == 0 ? status : nil
  }

  private static func checkExecutable(_ path: String, as name: String) throws(Complaint) {
    guard let status = status(path) else {
      let code = errno
      throw Complaint(
        code == ENOENT || code == ENOTDIR ? .programNotFound : .programNotExecutable,
        what: "cannot run \(name): \(systemWords(code))", advice: "check the path")
    }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw Complaint(
        .programNotExecutable,
        what: "cannot run \(path): it is \(status.st_mode & S_IFMT == S_IFDIR ? "a directory" : "not a file")",
        advice: "name a program")
    }
    guard access(path.originalPath, X_OK) == 0 else {
      throw Complaint(
        .programNotExecutable, what: "cannot run \(path): \(systemWords(errno))",
        advice: "make it executable (chmod +x)")
    }
  }

  // MARK: starting it

  /// Becomes the program; returns only to throw. A text without #! is given to the shell, as execvp(3) does.
  func become() throws(Complaint) -> Never {
    let arguments = ArgumentVector(command)
    execve(path.originalPath, arguments.pointers, environ)
    if errno == ENOEXEC {
      let script = ArgumentVector(shellCommand)
      execve(Self.shell, script.pointers, environ)
    }
    throw Self.failure(errno, path)
  }

  static let shell = "/bin/sh"

  /// The command by which a shell runs a file that the kernel can't execute.
  var shellCommand: [String] { ["sh", path] + command.dropFirst() }

  /// The complaint that the program at `path` could not be started.
  static func failure(_ code: Int32, _ path: String) -> Complaint {
    let advice =
      switch code {
      case ENOENT: "check the interpreter that it names"
      case E2BIG: "its arguments and its environment are too long together: pass fewer, or in a file"
      case EACCES: "check that it, and what it is run by, may be executed where it lies (noexec)"
      case ETXTBSY: "wait until nobody writes it any more"
      case ENOMEM, EAGAIN: "free memory, or raise the limit of processes (ulimit -u)"
      default: "check that it is a program for this machine"
      }
    return Complaint(
      code == ENOENT ? .programNotFound : .programNotExecutable, what: "cannot run \(path): \(systemWords(code))",
      advice: advice)
  }

  // MARK: whether it takes the agent

  /// Throws if the agent can't be preloaded into it.
  func checkPreloadable() throws(Complaint) {
    let image = try Image(of: self)
    for file in image.files { try Self.checkPrivileges(file) }
  }

  /// Programs that gain privileges ignore a preloaded library that is named by a path.
  private static func checkPrivileges(_ path: String) throws(Complaint) {
    guard let status = status(path) else { return }
    let setsUser = status.st_mode & S_ISUID != 0 && status.st_uid != getuid()
    let setsGroup = status.st_mode & S_ISGID != 0 && status.st_mode & S_IXGRP != 0 && status.st_gid != getgid()
    let hasCapabilities = getuid() != 0 && getxattr(path.originalPath, "security.capability", nil, 0) > 0
    guard !setsUser, !setsGroup, !hasCapabilities else {
      let how = setsUser ? "set-user-id" : setsGroup ? "set-group-id" : "endowed with file capabilities"
      throw Complaint(
        .obstacle, what: "cannot index \(path): it is \(how), so the dynamic loader ignores preloaded libraries",
        advice: "run it as the user whose rights it takes, or start it without allocsctl")
    }
  }
}

/// The file that runs when a command is executed: the file itself; of a script its interpreter; of `ld.so PROG` the
/// file PROG.
struct Image {
  /// The ELF file; nil if it is not known, as the file can't be read or is no ELF file.
  private(set) var path: String?
  /// The dynamic loader and its options, if they were named on the command line: then the loader that the ELF file
  /// names is not used.
  private(set) var loader: (path: String, options: [String])?
  /// The files that the kernel executes: the command's own, and interpreters.
  private(set) var files: [String] = []

  /// The kernel follows at most so many interpreters of scripts (BINPRM_MAX_RECURSION).
  private static let mostInterpreters = 5

  /// Throws if one of the files can't be executed, or takes no agent.
  init(of program: Program) throws(Complaint) {
    var words = program.command
    var file = program.path
    for _ in 0...Self.mostInterpreters {
      files.append(file)
      // A program that only the kernel may read may still take the agent.
      guard let content = ProgramFile(path: file) else { return }
      switch content.kind {
      case .unknown: return
      case .script(let foreign, let argument):
        let interpreter = foreign.unescaped
        try Self.checkInterpreter(interpreter, of: file, program.path)
        words = [interpreter] + (argument.map { [$0.unescaped] } ?? []) + [file] + words.dropFirst()
        file = interpreter
      case .elf(let elf):
        try check(elf, file, program.path, words)
        return
      }
    }
  }

  private static func checkInterpreter(_ path: String, of script: String, _ name: String) throws(Complaint) {
    let whose = script == name ? "its interpreter" : "the interpreter of \(script)"
    guard let status = Program.status(path) else {
      let code = errno
      throw Complaint(
        code == ENOENT || code == ENOTDIR ? .programNotFound : .programNotExecutable,
        what: "cannot run \(name): \(whose) \(path): \(systemWords(code))",
        advice: path.utf8.last == UInt8(ascii: "\r")
          ? "remove the carriage return at the end of its first line" : "check its first line, or install that program")
    }
    guard status.st_mode & S_IFMT == S_IFREG, access(path.originalPath, X_OK) == 0 else {
      throw Complaint(
        .programNotExecutable, what: "cannot run \(name): \(whose) \(path) can't be executed",
        advice: "check its first line")
    }
  }

  private mutating func check(_ elf: ELFProgram, _ file: String, _ name: String, _ words: [String]) throws(Complaint) {
    let whose = file == name ? "\(name): it" : "\(name): its interpreter \(file)"
    try Self.checkMachine(elf, "cannot index \(whose)")
    if let interpreter = elf.interpreter {
      path = file
      try Self.checkLoader(interpreter.unescaped, of: file, name)
    } else if let library = CLibraryKind(loader: file, elf) {
      guard library == .gnu else {
        throw Complaint(
          .obstacle, what: "cannot index \(whose) is the loader of another C library (\(library.rawValue))",
          advice: "run it without allocsctl: the agent is made for the GNU C library")
      }
      try checkStarted(by: file, words, name)
    } else {
      path = file
      guard elf.hasKit else {
        throw Complaint(
          .obstacle, what: "cannot index \(whose) is statically linked, so no agent can be preloaded into it",
          advice: elf.isGo
            ? "it is a Go program, whose allocator is its own: build it with cgo to index what its C code allocates"
            : "link it dynamically, or with the agent inside (pkg-config --libs allocs-inexe; docs/kit.md)")
      }
    }
  }

  private static func checkMachine(_ elf: ELFProgram, _ what: String) throws(Complaint) {
    guard !elf.isNative else { return }
    throw Complaint(
      .obstacle,
      what:
        "\(what) is for \(elf.machine.name), a program for another machine than this one (\(ELFMachine.native.name))",
      advice: "run it with the allocsctl and agent of that machine, or without")
  }

  /// Throws if the loader that the program `file` names is not there, or not that of the GNU C library.
  private static func checkLoader(_ path: String, of file: String, _ name: String) throws(Complaint) {
    let whose = file == name ? "\(name) needs" : "the interpreter of \(name), \(file), needs"
    let named = CLibraryKind(named: path)
    guard Program.status(path) != nil else {
      let code = errno
      let library = named.map { $0 == .gnu ? "" : " of another C library (\($0.rawValue))" } ?? ""
      throw Complaint(
        code == ENOENT || code == ENOTDIR ? .programNotFound : .programNotExecutable,
        what: "\(whose) the loader \(path)\(library), which can't be had: \(systemWords(code))",
        advice: library.isEmpty
          ? "install the C library that it was linked for, or link it anew"
          : "install that, and run it without allocsctl: the agent is made for the GNU C library")
    }
    // A loader that can't be read can't be judged.
    guard let content = ProgramFile(path: path) else { return }
    guard case .elf(let elf) = content.kind else {
      throw Complaint(
        .programNotExecutable, what: "\(whose) the loader \(path), which is no program", advice: "link it anew")
    }
    try checkMachine(elf, "\(whose) the loader \(path), which")
    let library = CLibraryKind(loader: path, elf) ?? .unknown
    guard library != .gnu else { return }
    throw Complaint(
      .obstacle, what: "\(whose) the loader \(path) of another C library (\(library.rawValue))",
      advice: "run it without allocsctl: the agent is made for the GNU C library")
  }

  /// Finds the program in `ld.so [OPTION…] PROG [ARGUMENT…]`, by the options of glibc 2.36 (elf/rtld.c).
  private mutating func checkStarted(by loader: String, _ words: [String], _ name: String) throws(Complaint) {
    let withValue: Set<String> = [
      "--library-path", "--inhibit-rpath", "--audit", "--preload", "--argv0", "--glibc-hwcaps-prepend",
      "--glibc-hwcaps-mask",
    ]
    var options: [String] = []
    var index = 1
    while index < words.count, words[index].utf8.starts(with: "--".utf8) {
      // These options start nothing: --help, --list, --verify and the like.
      guard withValue.contains(words[index]) || words[index] == "--inhibit-cache" else { return }
      let count = withValue.contains(words[index]) ? 2 : 1
      // bounded: the index is below the number of words
      options += words[index..<min(words.count, index + count)]
      index += count
    }
    // The loader looks for a name without a slash where libraries are. If the name isn't there, the loader says so
    // itself.
    guard index < words.count, words[index].utf8.contains(UInt8(ascii: "/")),
      let content = ProgramFile(path: words[index])
    else { return }
    self.loader = (loader, options)
    path = words[index]
    guard case .elf(let elf) = content.kind else { return }
    try Self.checkMachine(elf, "cannot index \(words[index]): it")
    guard elf.isDynamic else {
      throw Complaint(
        .obstacle,
        what: "cannot index \(words[index]): it is statically linked, and \(name) starts dynamically linked programs",
        advice: "link it dynamically, or with the agent inside (pkg-config --libs allocs-inexe; docs/kit.md)")
    }
  }
}

/// The C library that a dynamic loader belongs to.
enum CLibraryKind: String {
  case gnu = "the GNU C library"
  case musl, uClibc, bionic
  case unknown = "not the GNU one"

  /// The library by a loader's usual name; nil for other names.
  init?(named path: String) {
    let name = path.utf8.split(separator: UInt8(ascii: "/")).last.map { String(Substring($0)) } ?? path
    switch name {
    case _ where name.hasPrefix("ld-musl"): self = .musl
    case _ where name.hasPrefix("ld-uClibc") || name.hasPrefix("ld64-uClibc"): self = .uClibc
    case "linker", "linker64": self = .bionic
    case _ where name.hasPrefix("ld-linux") || name.hasPrefix("ld-2.") || name.hasPrefix("ld64.so"): self = .gnu
    default: return nil
    }
  }

  /// The library by the file itself, wherever its name leads; nil if the file is no loader.
  init?(loader path: String, _ elf: ELFProgram) {
    // The file has the name by which programs of that library are linked.
    if let name = elf.sharedName, let known = CLibraryKind(named: name.unescaped) {
      self = known
      return
    }
    guard elf.isDynamic, elf.interpreter == nil else { return nil }
    let real = realpath(path.originalPath, nil).map { pointer in
      defer { free(pointer) }
      return String(reversibly: UnsafePointer(pointer))
    }
    let named = [path, real ?? path].compactMap { CLibraryKind(named: $0) }
    if let other = named.first(where: { $0 != .gnu }) {
      self = other
    } else if elf.isMusl {
      // musl's C library is its loader, too.
      self = .musl
    } else if let first = named.first {
      // A loader of the usual name that starts glibc's own loader, as on NixOS.
      self = first
    } else {
      return nil
    }
  }
}
