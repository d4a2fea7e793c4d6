// SPDX-License-Identifier: Apache-2.0
// Where indexes go without ALLOCS_DIR, and what of them is told to whom: on machines with root's directory, with a
// session's, with neither, with those of the layout before, and where other users have put something in the way.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("directories of indexes", .enabled(if: Restrictions.isRoot, "needs root, for mounts and other users"))
  struct Directories {
    /// A /run and a /dev/shm that only the script sees, and the functions that it may call. The binaries lie where
    /// every user may read them.
    private static let prologue = """
      set -u
      bin=$1
      tools=$(mktemp -d /tmp/allocs-tools-XXXXXX); chmod 755 $tools
      trap 'rm -rf $tools; kill $(jobs -p) 2>/dev/null' EXIT
      cp $bin/allocsctl $bin/liballocs_agent.so $tools
      [ $# = 1 ] || cp $2 $tools/program
      mount -t tmpfs -o mode=1777 tmpfs /dev/shm; mount -t tmpfs -o mode=755 tmpfs /run
      as() { local u=$1; shift; setpriv --reuid=$u --regid=$u --clear-groups env -i PATH="$PATH" "$@"; }
      ctl() { as $1 $tools/allocsctl "${@:2}" 2>&1; }
      running() { # USER DIRECTORY: starts a program, waits for its index in the directory, sets pid

        # Not by the function, of which a copy of the shell would be the parent.
        setpriv --reuid=$1 --regid=$1 --clear-groups env -i PATH="$PATH" $tools/allocsctl run -- sleep 100 2>&1 & pid=$!
        for _ in $(seq 1000); do
          ls $2/$pid.*.ctl >/dev/null 2>&1 && ctl $1 ps --direct | grep -Eq "^ *$pid +[0-9-]+ +live" &&
            { echo in $2; return; }
          sleep 0.01
        done
        echo missing in $2
      }
      sees() { ctl $1 ps --direct | grep -q "^ *$2 " && echo "$1 sees" || echo "$1 does not"; }

      """

    /// `program`: is $tools/program for the script.
    private func output(_ script: String, program: String? = nil) throws -> [String] {
      let bin = try Installation.directory.get()
      let outcome = try ChildProcess.run(
        ["unshare", "-m", "--propagation", "private", "bash", "-c", Self.prologue + script, "script", bin]
          + (program.map { [$0] } ?? []),
        environment: ChildProcess.baseEnvironment)
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      return outcome.output.split(separator: "\n").map(String.init)
    }

    @Test("an index is in a directory of its user's, and nothing of it is told to others but root")
    func own() throws {
      let lines = try output(
        """
        running 12345 /dev/shm/allocs-12345
        stat -c '%a %u' /dev/shm/allocs-12345
        for user in 12345 12346 0; do sees $user $pid; done
        ctl 12346 info --direct $pid
        mkdir -p /run/user/12346; chown 12346 /run/user/12346; chmod 700 /run/user/12346
        running 12346 /run/user/12346/allocs
        sees 12346 $pid; sees 0 $pid; sees 12345 $pid
        mkdir /run/allocs; mkdir -m 700 /run/allocs/12346; chown 12346 /run/allocs/12346
        running 12346 /run/allocs/12346
        sees 12346 $pid; sees 0 $pid; sees 12345 $pid
        """)
      #expect(lines.count == 14)
      #expect(lines.prefix(5) == ["in /dev/shm/allocs-12345", "700 12345", "12345 sees", "12346 does not", "0 sees"])
      #expect(lines.count > 5 && lines[5].contains("permission denied, it is a process of 12345"), "\(lines)")
      #expect(lines.dropFirst(6).prefix(4) == ["in /run/user/12346/allocs", "12346 sees", "0 sees", "12345 does not"])
      #expect(lines.suffix(3) == ["12346 sees", "0 sees", "12345 does not"], "\(lines)")
    }

    @Test("what others have put at the name of a user's directory is not used, and is said")
    func squatted() throws {
      let lines = try output(
        """
        mkdir -m 777 /dev/shm/allocs-12345; chown 12346 /dev/shm/allocs-12345
        ctl 12345 run -- true; ctl 12345 ps --direct; ls /dev/shm/allocs-12345
        rm -r /dev/shm/allocs-12345; ln -s /tmp /dev/shm/allocs-12345
        ctl 12345 run -- true
        rm /dev/shm/allocs-12345; mkdir -m 720 /dev/shm/allocs-12345; chown 12345:12345 /dev/shm/allocs-12345
        ctl 12345 run -- true
        as 12345 env ALLOCS_VERBOSE=1 LD_PRELOAD=$tools/liballocs_agent.so ls /dev/shm/allocs-12345 2>&1
        """)
      #expect(lines.count == 5, "\(lines)")
      #expect(lines.filter { $0.contains("there is no directory of user 12345 for indexes") }.count == 3)
      #expect(lines.count > 1 && lines[1].contains("no process is indexed"))
      #expect(lines.last?.contains("runs unindexed: has no directory of its user's") == true)
    }

    @Test("the layout before is read, and used where it is there; where it belongs to another user it is neither")
    func former() throws {
      let lines = try output(
        """
        mkdir -m 1777 /run/allocs; chmod 1777 /run/allocs
        running 12345 /run/allocs
        for user in 12345 12346 0; do sees $user $pid; done
        mkdir /dev/shm/allocs; chmod 1777 /dev/shm/allocs; mv /run/allocs/* /dev/shm/allocs
        for user in 12345 12346 0; do sees $user $pid; done
        chown 12347 /dev/shm/allocs
        for user in 12345 12346 0; do sees $user $pid; done
        ctl 12345 info --direct $pid
        chown 0 /dev/shm/allocs; chmod 777 /dev/shm/allocs; sees 12345 $pid
        """)
      let seen = ["12345 sees", "12346 does not", "0 sees"]
      #expect(Array(lines.prefix(7)) == ["in /run/allocs"] + seen + seen, "\(lines)")
      #expect(lines.dropFirst(7).prefix(3) == ["12345 does not", "12346 does not", "0 does not"], "\(lines)")
      #expect(lines.dropFirst(10).first?.contains("/dev/shm/allocs is passed over: it belongs to user 12347") == true)
      #expect(lines.last == "12345 does not", "anybody may remove the files of others there")
    }

    @Test("where others have taken the names of a program in a common directory, its index goes to its user's own")
    func namesTaken() throws {
      let lines = try output(
        """
        mkdir /run/allocs; chmod 1777 /run/allocs
        printf '%s\n' '#!/bin/bash' 's=$(cut -d" " -f22 /proc/$$/stat); echo $$ $s; read line' \
          'exec env LD_PRELOAD=$1/liballocs_agent.so sleep 100' >$tools/late; chmod 755 $tools/late
        mkfifo -m 666 $tools/wait
        as 12345 bash $tools/late $tools >$tools/name <$tools/wait & pid=$!
        exec 3>$tools/wait
        for _ in $(seq 1000); do [ -s $tools/name ] && break; sleep 0.01; done
        read number start <$tools/name
        as 12346 touch /run/allocs/$number.$start.seg
        echo go >&3
        for _ in $(seq 1000); do [ -e /dev/shm/allocs-12345/$number.$start.ctl ] && break; sleep 0.01; done
        ls /dev/shm/allocs-12345/$number.$start.seg
        sees 12345 $number; sees 0 $number
        """)
      #expect(lines.count == 3 && lines.first?.hasSuffix(".seg") == true, "\(lines)")
      #expect(lines.suffix(2) == ["12345 sees", "0 sees"], "\(lines)")
    }

    @Test(
      "a program that root has started and that runs as another user is root's to ask about"
    )
    func dropped() throws {
      let program = try PlacedProgram([Programs.path("dropped.c"), "12345"])
      chmod(program.directory.path, 0o1777)
      #expect(program.pid == program.process.pid)
      let answer = try program.query("process")
      #expect(answer["address"] != nil)
      let info = try program.ask(["info", "\(program.pid)"])
      #expect(info["state"] as? String == "live" && info["uid"] as? Int == 0, "\(info)")
      let tools = try TestDirectory()
      chmod(tools.path, 0o755)
      try makeExecutable(tools.file("allocsctl"), from: Installation.path(of: "allocsctl"))
      let asked = try ChildProcess.run(
        OtherUsers.command(as: "12345") + [tools.file("allocsctl"), "info", "--direct", "\(program.pid)"],
        environment: ["ALLOCS_DIR": program.directory.path])
      #expect(asked.ending == .exit(1) && asked.output == "", "\(asked)")
    }

    @Test("a followed child of a program that has become another user has its index where that user's are")
    func droppedAndFollowed() throws {
      let program = try Programs.path("dropped.c")
      let lines = try output(
        """
        mkfifo $tools/wait; exec 3<>$tools/wait
        env LD_PRELOAD=$tools/liballocs_agent.so ALLOCS_FOLLOW=1 $tools/program 12345 fork >$tools/said <$tools/wait &
        for _ in $(seq 1000); do grep -q ready $tools/said && break; sleep 0.01; done
        parent=$(awk '/^process/ { print $2 }' $tools/said); child=$(awk '/^child/ { print $2 }' $tools/said)
        for _ in $(seq 1000); do ls /dev/shm/allocs-12345/$child.*.ctl >/dev/null 2>&1 && break; sleep 0.01; done
        ls /dev/shm/allocs-0 | grep -c "^$parent\\..*seg"
        sees 12345 $child; sees 12345 $parent; sees 0 $parent; sees 0 $child
        kill $child
        """, program: program)
      #expect(lines == ["1", "12345 sees", "12345 does not", "0 sees", "0 sees"], "\(lines)")
    }

    // MARK: mounts

    /// A file system of a user's making (FUSE) that never answers: whoever asks it, waits. Root mounts it here, as
    /// fusermount does for any user.
    private static let silent = """
      silent() { # PATH TYPE: over a file (100000), a directory (40000) or a socket (140000) of user 12346
        case $2 in 40000) mkdir $1 ;; *) touch $1 ;; esac
        chown 12346 $1
        exec {fuse}<>/dev/fuse
        mount -i -t fuse silent $1 -o fd=$fuse,rootmode=$2,user_id=12346,group_id=12346,allow_other || echo not mounted
      }

      """
    private static var hasFUSE: Bool {
      let outcome = try? ChildProcess.run(
        [
          "unshare", "-m", "--propagation", "private", "bash", "-c",
          "exec 7<>/dev/fuse; mount -i -t fuse silent /mnt -o fd=7,rootmode=40000,user_id=0,group_id=0,allow_other",
        ])
      return outcome?.ending == .exit(0)
    }

    @Test(
      "what another user has mounted over names in a common directory holds up no program that starts",
      .enabled(if: hasFUSE, "needs to mount a file system of FUSE"))
    func silentNames() throws {
      let lines = try output(
        Self.silent + """
          mkdir /run/allocs; chmod 1777 /run/allocs
          for name in 5000000.77.seg 5000001.78.seg allocsd.0.sweeps allocsd.12345.sweeps; do
            silent /run/allocs/$name 100000
          done
          # One start in 32 sweeps.
          as 12345 timeout -s KILL 100 bash -c 'for i in {1..500}; do LD_PRELOAD=$0 /bin/true; done' \
            $tools/liballocs_agent.so
          echo $?
          ls /run/allocs | grep -c '[.]seg$'
          """)
      #expect(lines.first == "0", "\(lines)")
      #expect(lines.count == 2 && Int(lines[1]).map { $0 >= 64 && $0 < 500 } == true, "no start has swept: \(lines)")
    }

    @Test(
      "what another user has mounted over the name of root's directory is not entered by root's programs, and is said",
      .enabled(if: hasFUSE, "needs to mount a file system of FUSE"))
    func silentDirectory() throws {
      let lines = try output(
        Self.silent + """
          silent /dev/shm/allocs-0 40000
          timeout -s KILL 100 env ALLOCS_VERBOSE=1 LD_PRELOAD=$tools/liballocs_agent.so true 2>&1; echo $?
          timeout -s KILL 100 $tools/allocsctl run -- true 2>&1; echo $?
          """)
      #expect(lines.count == 4 && lines[0].contains("runs unindexed: has no directory of its user's"), "\(lines)")
      #expect(lines.count == 4 && lines[2].contains("there is no directory of user 0 for indexes"), "\(lines)")
      #expect(lines.count == 4 && lines[1] == "0" && lines[3] == "1", "\(lines)")
    }

    @Test(
      "what another user has mounted over the server's names makes root's server end with words, at once",
      .enabled(if: hasFUSE, "needs to mount a file system of FUSE"), arguments: ["allocsd.sock", "allocsd.sock.lock"])
    func silentSocket(name: String) throws {
      for type in ["100000", "140000"] {
        let lines = try output(
          Self.silent + """
            mkdir /run/allocs; chmod 1777 /run/allocs
            silent /run/allocs/\(name) \(type)
            timeout -s KILL 100 $bin/allocsd 2>&1; echo $?
            """)
        #expect(lines.last == "1", "\(lines)")
        #expect(
          lines.contains { $0.contains("/run/allocs/\(name): something is mounted there — unmount it") }, "\(lines)")
      }
    }
  }
}
