// SPDX-License-Identifier: Apache-2.0
// The surroundings of the programs: `make install`, the units for systemd, and the script that installs Debian
// packages.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("packaging")
  struct PackagingTests {
    private func script(_ name: String) -> String { "\(Installation.packageDirectory)/scripts/\(name)" }

    // MARK: make install

    /// Installs what was built below `prefix`, as `make install` does.
    private func install(below prefix: String) throws {
      let outcome = try ChildProcess.run([script("install"), try Installation.directory.get(), "", prefix])
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
    }

    @Test("the installed units are right by systemd's own checker, and name what was installed")
    func units() throws {
      let checker = try installedProgram("systemd-analyze", package: "systemd")
      let directory = try TestDirectory()
      try install(below: directory.path)
      let units = ["allocsd.service", "allocsd.socket", "run-allocs.mount"].map {
        directory.file("lib/systemd/system/\($0)")
      }
      /// The checker's complaints about our units; others on the machine are not ours.
      func complaints() throws -> [Substring] {
        let outcome = try ChildProcess.run([checker, "verify", "--man=no"] + units)
        let lines = outcome.errors.split(separator: "\n").filter { $0.contains("allocs") }
        #expect(outcome.ending == .exit(0) || !lines.isEmpty, "\(outcome.errors)")
        return lines
      }
      #expect(try complaints() == [])
      let service = try String(contentsOfFile: units[0], encoding: .utf8)
      #expect(service.contains("ExecStart=\(directory.path)/bin/allocsd\n"))
      // It would find faults: an unknown setting, a program that is not there.
      _ = try directory.write(service + "NoSuchSetting=1\n", to: "lib/systemd/system/allocsd.service")
      #expect(try complaints().contains { $0.contains("NoSuchSetting") })
      try FileManager.default.removeItem(atPath: directory.file("bin/allocsd"))
      #expect(try complaints().contains { $0.contains("bin/allocsd") })
    }

    @Test("the installed allocsctl runs programs under the installed agent")
    func installed() throws {
      let directory = try TestDirectory()
      try install(below: directory.path)
      let outcome = try ChildProcess.run(
        [directory.file("bin/allocsctl"), "run", "--", "sh", "-c", "echo $LD_PRELOAD"],
        environment: ["ALLOCS_DIR": directory.path])
      #expect(outcome.ending == .exit(0) && outcome.errors == "", "\(outcome.errors)")
      #expect(outcome.output == directory.file("lib/liballocs_agent.so") + "\n")
      #expect(try directory.segments().count == 1)
    }

    @Test("the unit is exposed by at most 2.0 of 10, in systemd's own measure")
    func exposure() throws {
      let checker = try installedProgram("systemd-analyze", package: "systemd")
      let unit = "\(Installation.packageDirectory)/systemd/allocsd.service"
      func exposure(_ unit: String, atMost tenths: Int) throws -> Outcome {
        try ChildProcess.run([checker, "security", "--offline=true", "--threshold=\(tenths)", "--no-pager", unit])
      }
      let outcome = try exposure(unit, atMost: 20)
      #expect(outcome.ending == .exit(0), "\(outcome.output.suffix(400)) \(outcome.errors)")
      // The measure is of this file: one more right, and it is worse.
      let directory = try TestDirectory()
      let worse = try String(contentsOfFile: unit, encoding: .utf8)
        .replacingOccurrences(of: "NoNewPrivileges=yes", with: "CapabilityBoundingSet=CAP_SYS_ADMIN")
      let other = try exposure(try directory.write(worse, to: "allocsd.service"), atMost: 20)
      #expect(other.ending == .exit(1), "\(other.output.suffix(400)) \(other.errors)")
    }

    @Test(
      "systemd-tmpfiles makes the directory of the segments, which is root's, and takes an older one back",
      .enabled(if: Restrictions.isRoot, "needs root, to make a directory of root's"))
    func temporaryFiles() throws {
      let maker = try installedProgram("systemd-tmpfiles", package: "systemd")
      let directory = try TestDirectory()
      for before in [nil, 0o1777] as [mode_t?] {
        if let before { chmod(directory.file("run/allocs"), before) }
        let outcome = try ChildProcess.run(
          [maker, "--create", "--root=\(directory.path)", "\(Installation.packageDirectory)/systemd/allocs.conf"])
        #expect(outcome.ending == .exit(0), "\(outcome.errors)")
        var status = stat()
        #expect(lstat(directory.file("run/allocs"), &status) == 0)
        #expect(status.st_mode == S_IFDIR | 0o755 && status.st_uid == 0)
      }
    }

    @Test(
      "the file system of the segments can be mounted as the unit says, and refuses what is beyond its limits",
      .enabled(if: Restrictions.isRoot, "needs root, to mount"))
    func mountUnit() throws {
      let unit = try String(
        contentsOfFile: "\(Installation.packageDirectory)/systemd/run-allocs.mount", encoding: .utf8)
      let line = try #require(unit.split(separator: "\n").first { $0.hasPrefix("Options=") })
      let options = line.dropFirst("Options=".count).replacingOccurrences(of: "%%", with: "%")
      #expect(options.contains("size=") && options.contains("nr_inodes="))
      let directory = try TestDirectory()
      let script = """
        set -e; mount -t tmpfs -o "$1" tmpfs "$2"; stat -f -c '%b %c' "$2"; stat -c '%u:%g %a' "$2"; umount "$2"
        mount -t tmpfs -o "$1,nr_inodes=10" tmpfs "$2"; i=0
        while touch "$2/$i" 2>/dev/null; do i=$((i + 1)); done; echo "$i"
        """
      let outcome = try ChildProcess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", options, directory.path])
      let lines = outcome.output.split(separator: "\n")
      try #require(lines.count == 3, "\(outcome)")
      let limits = lines[0].split(separator: " ").compactMap { Int($0) }
      #expect(limits.count == 2 && limits.allSatisfy { $0 > 0 })
      #expect(lines[1] == "0:0 755")
      #expect(lines[2].prefix { $0.isNumber }.count == lines[2].count && Int(lines[2]).map { $0 < 10 } == true)
    }

    // MARK: what the agent needs where it is loaded

    @Test("the agent needs libc alone, of any age, and calls nothing of it that is not in the table of docs/libc.md")
    func imports() throws {
      let agent = try Installation.path(of: Installation.agent)
      let dynamic = try ChildProcess.run([installedProgram("readelf", package: "binutils"), "-d", "-W", agent]).output
      let needed = dynamic.split(separator: "\n").filter { $0.contains("(NEEDED)") }
      #expect(needed.count == 1 && needed[0].contains("[libc.so.6]"), "\(needed)")
      let table = try String(contentsOfFile: "\(Installation.packageDirectory)/docs/libc.md", encoding: .utf8)
      let symbols = try ChildProcess.run([installedProgram("nm", package: "binutils"), "-D", "--undefined-only", agent])
        .output
      for line in symbols.split(separator: "\n") {
        let words = line.split(separator: " ")
        let name = words[words.count - 1].split(separator: "@")
        #expect(table.contains("`\(name[0])`"), "\(name[0])")
        guard name.count > 1, name[1].hasPrefix("GLIBC_2.") else { continue }
        let minor = name[1].dropFirst(8).split(separator: ".").first.flatMap { Int($0) }
        #expect(minor.map { $0 <= 17 } == true, "\(line)")
      }
    }

    @Test("names of glibc's own stand in the agent's folder for them, and in the files that docs/porting.md names")
    func seam() throws {
      let root = Installation.packageDirectory
      let porting = try String(contentsOfFile: "\(root)/docs/porting.md", encoding: .utf8)
      let names = [
        "__libc_", "_dl_find_object", "_r_debug", "_dl_debug_addr", "__register_atfork", "gnu_get_libc_version",
        "_thread_db_", "dl_iterate_phdr", "pthread_key_create", "__freadptr", "GLIBC_",
      ]
      var inFolder: Set<String> = []
      let sources = try #require(FileManager.default.enumerator(atPath: "\(root)/Sources/Agent"))
      for case let path as String in sources {
        guard let text = try? String(contentsOfFile: "\(root)/Sources/Agent/\(path)", encoding: .utf8) else { continue }
        for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
          let code = line.components(separatedBy: "//")[0]
          for name in names where code.contains(name) {
            if path.hasPrefix("Core/Libc/") {
              inFolder.insert(name)
            } else {
              let file = path.split(separator: "/").last.map(String.init) ?? path
              let folder = path.hasPrefix("Kit/") ? "Agent/Kit" : file
              #expect(porting.contains(folder), "\(path):\(number + 1) has \(name)")
            }
          }
        }
      }
      #expect(inFolder.count >= 8, "\(inFolder)")
    }

    @Test("the agent exports what its version script names, and nothing else")
    func exports() throws {
      let script = try String(
        contentsOfFile: "\(Installation.packageDirectory)/Sources/Agent/Entry/exports.map", encoding: .utf8)
      let global = try #require(script.range(of: "global:")).upperBound
      let local = try #require(script.range(of: "local:")).lowerBound
      let named = script[global..<local].split(whereSeparator: { $0 == ";" || $0.isWhitespace }).map(String.init)
      let agent = try Installation.path(of: Installation.agent)
      let command = try [installedProgram("nm", package: "binutils"), "-D", "--defined-only", "--extern-only", agent]
      let symbols = try ChildProcess.run(command).output
      let exported = symbols.split(separator: "\n").compactMap { $0.split(separator: " ").last.map(String.init) }
      #expect(exported.sorted() == named.sorted())
      #expect(exported.contains("malloc"))
    }

    @Test("a program of musl runs under the agent as without, alone and as the child of an indexed one")
    func otherLibrary() throws {
      let directory = try TestDirectory()
      let compiler = try installedProgram("musl-gcc", package: "musl-tools")
      let agent = try Installation.path(of: Installation.agent)
      for options in [[], ["-no-pie"], ["-O2", "-Wl,-z,now"]] {
        let program = directory.file("other")
        let built = try ChildProcess.run(
          [compiler, "-w", Programs.source("other_library.c"), "-o", program] + options)
        try #require(built.ending == .exit(0), "\(built.errors)")
        let plain = try ChildProcess.run([program, "x"])
        #expect(plain.ending == .exit(5) && plain.output.hasPrefix("hello"))
        let environment = try Installation.agentEnvironment(directory.path)
        #expect(try ChildProcess.run([program, "x"], environment: environment) == plain)
        // system, posix_spawn and exec, by programs of glibc's.
        let python = { (call: String) in
          ["python3", "-c", "import os; os._exit(os.waitstatus_to_exitcode(\(call)))"]
        }
        let starters = [
          ["/bin/sh", "-c", "\(program) x; exit $?"], ["/bin/sh", "-c", "exec \(program) x"],
          python("os.system('\(program) x')"),
          python("os.waitpid(os.posix_spawn('\(program)', ['a', 'x'], os.environ), 0)[1]"),
        ]
        for starter in starters {
          #expect(try ChildProcess.run(starter, environment: environment) == plain, "\(starter)")
        }
        let verbose = try ChildProcess.run(
          [program], environment: ["LD_PRELOAD": agent, "ALLOCS_DIR": directory.path, "ALLOCS_VERBOSE": "1"])
        #expect(verbose.errors.contains("runs unindexed: its C library is not glibc"), "\(verbose.errors)")
      }
    }

    // MARK: scripts/install-dependencies

    /// Runs the script as a user who is not root, on a machine that has Swift and no package, and of `commands` (names
    /// and shell code) what is given. Each command says in the file "calls" how it was called.
    private func installDependencies(
      _ arguments: [String], _ commands: [String: String]
    ) throws -> (outcome: Outcome, calls: String) {
      let directory = try TestDirectory()
      chmod(directory.path, 0o755)
      let calls = try directory.write("", to: "calls")
      chmod(calls, 0o666)
      let place = try directory.directory("bin")
      for name in ["bash", "id", "env", "sh"] {
        try FileManager.default.createSymbolicLink(
          atPath: "\(place)/\(name)", withDestinationPath: try installedProgram(name, package: "coreutils or bash"))
      }
      let all = ["swift": "exit 0", "dpkg-query": "exit 1"].merging(commands) { $1 }
      for (name, code) in all {
        let path = try directory.write("#!/bin/sh\necho \"\(name) $*\" >>\(calls)\n\(code)\n", to: "bin/\(name)")
        try makeExecutable(path)
      }
      // The tree itself may be where only root may look.
      let copy = directory.file("install-dependencies")
      try makeExecutable(copy, from: script("install-dependencies"))
      var command = ["\(place)/bash", copy] + arguments
      if Restrictions.isRoot { command = OtherUsers.nobody + command }
      let outcome = try ChildProcess.run(command, environment: ["PATH": place])
      return (outcome, try String(contentsOfFile: calls, encoding: .utf8))
    }

    /// Commands in `calls` that change the machine.
    private func installations(_ calls: String) -> [Substring] {
      calls.split(separator: "\n").filter { $0.contains("apt-get") }
    }

    @Test("who may not install packages gets the line to run, and nothing is tried")
    func lineToRun() throws {
      let (outcome, calls) = try installDependencies(["lint", "demo"], ["sudo": "exit 1", "apt-get": "exit 0"])
      #expect(outcome.ending == .exit(1) && outcome.output == "")
      let lines = outcome.errors.split(separator: "\n")
      #expect(lines.count == 2 && lines.first?.hasPrefix("install-dependencies: ") == true, "\(outcome.errors)")
      let packages = "perl python3 shellcheck redis-server redis-tools binutils"
      let install = "apt-get install -y --no-install-recommends \(packages)"
      #expect(lines.last.map { String($0) } == "  sudo apt-get update && sudo \(install)", "\(outcome.errors)")
      #expect(calls.contains("sudo -n true\n") && installations(calls).isEmpty, "\(calls)")
    }

    @Test("without sudo the line to run is one for root")
    func withoutSudo() throws {
      let (outcome, calls) = try installDependencies(["lint"], ["apt-get": "exit 0"])
      #expect(outcome.ending == .exit(1) && installations(calls).isEmpty)
      #expect(
        outcome.errors.split(separator: "\n").last
          == "  su -c 'apt-get update && apt-get install -y --no-install-recommends perl python3 shellcheck'",
        "\(outcome.errors)")
    }

    @Test("with sudo that asks for no password the missing packages are installed, and a failure is told")
    func withSudo() throws {
      let passing = ["sudo": "shift; exec \"$@\"", "true": "exit 0", "apt-get": "exit 0"]
      let (outcome, calls) = try installDependencies(["lint"], passing)
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      #expect(
        installations(calls).filter { $0.hasPrefix("apt-get") }
          == ["apt-get update -q", "apt-get install -y --no-install-recommends perl python3 shellcheck"])
      let failing = try installDependencies(["lint"], passing.merging(["apt-get": "exit 100"]) { $1 }).outcome
      #expect(failing.ending == .exit(1) && failing.errors.contains("apt-get failed"), "\(failing.errors)")
    }

    @Test("where all packages are installed nothing is asked of anybody")
    func nothingMissing() throws {
      let (outcome, calls) = try installDependencies(
        ["build", "test", "lint"], ["dpkg-query": "printf installed", "sudo": "exit 1", "apt-get": "exit 1"])
      #expect(outcome.ending == .exit(0) && outcome.output == "" && outcome.errors == "")
      #expect(!calls.contains("sudo") && installations(calls).isEmpty)
      #expect(try installDependencies(["no-such-group"], [:]).outcome.ending == .exit(64))
    }
  }
}
