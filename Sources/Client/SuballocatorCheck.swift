// SPDX-License-Identifier: Apache-2.0
// Checks the settings that `run` is to hand to the agent, before the program starts: their values, and that each
// function of ALLOCS_SUBALLOC is defined once, by the program or by a library that it is linked to. The dynamic linker
// names these libraries.

import Answers
import ByteText
import Glibc
import Provenance
import SharedLayout
import Symbols
import SystemAccess

extension Configuration {
  /// Throws if the environment has a variable whose name is nearly that of a setting: the agent would not see it.
  static func checkNames() throws(Complaint) {
    for name in Variables.unknownSettings {
      guard let meant = SettingKind.meant(by: name) else { continue }
      throw Complaint(
        .usage, what: "there is no setting \(name)", advice: "did you mean \(meant.variable)? Else unset \(name)")
    }
  }

  /// Throws if a value is wrong; the complaint names the place where it was written.
  func check() throws(Complaint) {
    for kind in SettingKind.configured {
      guard let setting = settings[kind.key] else { continue }
      switch kind.read(setting.text) {
      case .value: break
      case .unreadable, .outOfRange:
        throw Complaint(
          .usage, what: "\(setting.place(at: 0)): \"\(setting.text)\" \(kind.complaint)", advice: kind.advice)
      }
    }
    if let setting = settings["level"] {
      // bounded: both in a text
      let wrong = setting.text.withCString { text in allocs_level_error(text).map { $0 - text } }
      if let wrong {
        throw Complaint(
          .usage, what: "\(setting.place(at: wrong)): the level \"\(Self.word(setting.text, at: wrong))\" is not known",
          advice: "give block, chunk, NAME=block or NAME=chunk, with commas between")
      }
    }
    do throws(Complaint) {
      _ = try Wrappers.standard.adding(wrappers)
    } catch {
      throw Complaint(
        .usage, what: "\(settings["wrappers"]?.place(at: 0) ?? "wrappers"): \(error)", advice: "see --help")
    }
  }

  private static func word(_ text: String, at offset: Int) -> String {
    String(decoding: text.utf8.dropFirst(max(0, offset)).prefix { !",;\n".utf8.contains($0) }.prefix(60), as: UTF8.self)
  }

  private static func word(before offset: Int, of text: String) -> String {
    let word = Array(text.utf8.prefix(max(0, offset))).reversed().prefix { !",; \n".utf8.contains($0) }.prefix(60)
      .reversed()
    return String(decoding: word, as: UTF8.self)
  }

  /// A declared function, and where it was declared.
  fileprivate struct Declared {
    var name: String
    var module: String?
    var place: String
  }

  /// Throws if the declarations can't be read, or a function is not defined exactly once among the modules of
  /// `program`.
  func checkSuballocators(of program: Program) throws(Complaint) {
    guard let setting = settings["suballoc"] else { return }
    let declared = try declared(in: setting)
    guard !declared.isEmpty else { return }
    let modules = try program.modules()
    let names = Set(declared.map(\.name))
    var definitions: [String: [(module: String, functions: ModuleFile.Definition)]] = [:]
    for (index, path) in modules.enumerated() {
      guard let file = ModuleFile(path: ForeignText(path)) else { continue }
      for (name, functions) in file.functions(named: names, exported: index > 0) {
        definitions[name, default: []].append((path, functions))
      }
    }
    for function in declared {
      var found = definitions[function.name] ?? []
      if let module = function.module {
        found.removeAll { $0.module != module && ForeignText($0.module).fileName != module }
      }
      let place = "\(function.place): the function \(function.name)"
      // A module that the program is not linked to may be loaded later, with its functions.
      if let module = function.module,
        !modules.contains(where: { $0 == module || ForeignText($0).fileName == module })
      {
        continue
      }
      guard let first = found.first else {
        throw Complaint(
          .usage, what: "\(place) is not found in \(function.module ?? "\(program.path) or its libraries")",
          advice:
            """
            check its name; for a library opened later, say which: NAME@plugin.so: \(function.name)(…); what is \
            inlined, or static in a stripped program, can't be hooked
            """
        )
      }
      if found.count > 1 {
        throw Complaint(
          .usage, what: "\(place) is found twice: in \(first.module) and in \(found[1].module)",
          advice: "say which: NAME@\(ForeignText(first.module).fileName): \(function.name)(…)")
      }
      // A module may have an old version of a function, which nobody calls, beside the present one: libc has two of
      // memcpy.
      if first.functions.isIndirect {
        throw Complaint(
          .usage, what: "\(place) is an IFUNC of \(first.module), which stands for several functions",
          advice: "declare the function around it")
      }
      if first.functions.addresses.count > 1 {
        throw Complaint(
          .usage, what: "\(place) is found \(first.functions.addresses.count) times in \(first.module)",
          advice: "static functions of one name can't be told apart; give them names of their own")
      }
    }
  }

  private func declared(in setting: Setting) throws(Complaint) -> [Declared] {
    var declared: [Declared] = []
    var wrong: (offset: Int, why: String)?
    setting.text.withCString { text in
      var reader = allocs_declaration_reader_of(text, UInt32(clamping: setting.text.utf8.count))
      var declaration = allocs_declaration()
      while allocs_read_declaration(&reader, &declaration) {
        let module = declaration.module.string
        declared.append(
          Declared(
            name: declaration.function.string, module: module.isEmpty ? nil : module,
            place: setting.place(at: (declaration.function.start ?? text) - text)))  // bounded: both in a text
      }
      if reader.error != ALLOCS_DECLARATION_OK {
        let place = (reader.error_at ?? text) - text  // bounded: both in a text
        wrong = (place, String(cString: allocs_declaration_error_text(reader.error)))
      }
    }
    if let wrong {
      let last = declared.last.map { ", behind \($0.name)" } ?? ""
      let rest = Self.word(setting.text, at: wrong.offset)
      // Where a declaration ends too early, the words before the end say more than the empty rest.
      let before = Self.word(before: wrong.offset, of: setting.text)
      let at = rest.isEmpty && !before.isEmpty ? "behind \"\(before)\"" : "at \"\(rest)\""
      throw Complaint(
        .usage,
        what: "\(setting.place(at: wrong.offset)): cannot read suballoc \(at)\(last): \(wrong.why)",
        advice: "write NAME: function(letters)p, as in apr: apr_palloc(pZ)p")
    }
    let limit = Int(ALLOCS_ALLOCATOR_CAPACITY) - 1
    guard declared.count <= limit else {
      throw Complaint(
        .usage, what: "\(setting.place(at: 0)): suballoc declares \(declared.count) functions",
        advice: "declare at most \(limit)")
    }
    return declared
  }

  /// Hands the settings to the agent, and to commands that are run from within the program.
  func export() {
    for kind in SettingKind.configured {
      guard let setting = settings[kind.key], case .value(let value) = kind.read(setting.text) else { continue }
      Variables.set(kind.variable, to: value)
    }
  }
}

extension allocs_text_part {
  fileprivate var string: String {
    guard let start else { return "" }
    return String(
      decoding: UnsafeRawBufferPointer(start: UnsafeRawPointer(start), count: Int(clamping: size)), as: UTF8.self)
  }
}

extension Program {
  /// The paths of the executable and of the libraries that it will be started with, in the dynamic linker's order.
  fileprivate func modules() throws(Complaint) -> [String] {
    let found = try Image(of: self)
    guard let image = found.path,
      let interpreter = found.loader?.path ?? ModuleFile(path: ForeignText(image))?.interpreter?.unescaped
    else {
      return [found.path ?? path]
    }
    var ends: [Int32] = [0, 0]
    guard pipe(&ends) == 0 else { return [image] }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
    let absolute = image.utf8.contains(UInt8(ascii: "/")) ? image : "./\(image)"
    let options = found.loader?.options ?? []
    let arguments = ArgumentVector([interpreter] + options + ["--list", absolute])  // bounded: lists of texts
    var child: pid_t = 0
    let status = posix_spawn(&child, interpreter.originalPath, &actions, nil, arguments.pointers, environ)
    close(ends[1])
    defer { close(ends[0]) }
    guard status == 0 else { return [image] }
    var output: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = read(ends[0], &buffer, buffer.count)
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { break }
      output += buffer[..<count]
    }
    var ended: Int32 = 0
    while waitpid(child, &ended, 0) < 0, errno == EINTR {}
    // Each line has blanks, a name, " => ", a path and " (address)"; or blanks, a path and " (address)".
    var modules = [image]
    for line in String(reversibly: output).split(separator: "\n") {
      var words = line.split(separator: " => ", maxSplits: 1).last ?? line
      guard let end = words.lastIndex(of: "("), words.hasSuffix(")") else { continue }
      words = words[..<end]
      let module = String(words.drop { $0 == " " || $0 == "\t" }.reversed().drop { $0 == " " }.reversed())
      if module.hasPrefix("/"), module != interpreter { modules.append(module) }
    }
    return modules
  }
}
