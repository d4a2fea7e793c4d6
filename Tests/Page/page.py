#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The page in a browser, of a program with a million live blocks from twenty thousand call stacks:
Tests/Page/page.py [--screenshots DIRECTORY | --figures].

And two files of `export` in it: the flame graph, and DHAT's in Valgrind's viewer, if that is installed.

Needs the release binaries (ALLOCS_BIN_DIR), cc and Chromium; without Chromium it says so, and ends in order. Times are
printed and not held against anything: they are the machine's as well. --figures checks nothing, and prints what
`make bench` has rows of: a line each, its name and the numbers of all rounds."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import browser


class Test:
  def __init__(self, directory, screenshots):
    self.directory, self.screenshots = directory, screenshots
    self.binaries = os.environ["ALLOCS_BIN_DIR"]
    self.children, self.failures = [], []

  def check(self, what, holds, more=""):
    print(f"{'ok  ' if holds else 'FAIL'} {what}{'' if holds else f': {more}'}", flush=True)
    if not holds:
      self.failures.append(what)

  def start(self, *words, **options):
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    self.children.append(child)
    return child

  def begin(self):
    program = os.path.join(self.directory, "stacks")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stacks.c")
    subprocess.run(
      ["cc", "-O1", "-fno-optimize-sibling-calls", f"-DLONG=\"{'x' * 12000}\"", source, "-o", program], check=True)
    environment = dict(os.environ, ALLOCS_DIR=self.directory)
    agent = os.environ.get("ALLOCS_AGENT", os.path.join(self.binaries, "liballocs_agent.so"))
    self.program = self.start(program, env=dict(environment, LD_PRELOAD=agent))
    socket = os.path.join(self.directory, "allocsd.sock")
    self.server = self.start(
      os.path.join(self.binaries, "allocsd"), "--socket", socket, "--log-level", "error", env=environment)
    assert self.program.stdout.readline() == "ready\n"
    while not os.path.exists(socket):
      time.sleep(0.05)
    self.front = self.start(os.path.join(self.binaries, "allocsctl"), "page", "--socket", socket, env=environment)
    self.link = self.front.stdout.readline().strip()

  def stop(self):
    for child in reversed(self.children):
      child.send_signal(signal.SIGTERM)
      child.wait()

  def shot(self, page, name):
    if self.screenshots:
      page.screenshot(os.path.join(self.screenshots, f"{name}.png"))

  def drag(self, page, places, done):
    """Points at places that an expression tells, from the first to the last of them, until what shall come of it has
    come: the page may have moved between the two."""
    for turn in range(20):
      points = page.evaluate(places)
      page.mouse(*points[0], to=points[-1])
      try:
        page.wait(done, 5 if turn < 19 else 60)
        return
      except RuntimeError:
        if turn == 19:
          raise

  def tab(self, page, title):
    page.evaluate(
      f"[...document.querySelectorAll('[role=tab]')].find(tab => tab.textContent === {json.dumps(title)}).click()")

  def export(self, format, name):
    path = os.path.join(self.directory, name)
    subprocess.run(
      [os.path.join(self.binaries, "allocsctl"), "export", str(self.program.pid), "--format", format, "-o", path],
      env=dict(os.environ, ALLOCS_DIR=self.directory), check=True)
    return path

  def flamegraph(self, page):
    """The picture of `export --format flamegraph`, as a browser shows it from a file."""
    page.size(1280)
    page.open("file://" + self.export("flamegraph", "heap.svg"))
    page.wait("document.documentElement.tagName === 'svg' && document.querySelectorAll('#frames > g').length > 1000")
    place = """(() => { const box = frames.map(g => g).filter(g => g.w > 0.005 && g.w < 0.5)[0];
      const area = box.box.getBoundingClientRect(); box.scrollIntoView?.();
      return [[area.left + area.width / 2, area.top + area.height / 2], box.words, box.w]; })()"""
    spot, words, share = page.evaluate(place)
    page.mouse(*spot)
    wide = f"Number(frames.find(g => g.words === {json.dumps(words)}).box.getAttribute('width'))"
    page.wait(f"{wide} > 1199")
    self.check("a click on a frame of the SVG makes it as wide as the picture", share < 0.5)
    hidden = page.evaluate("frames.filter(g => g.style.display === 'none').length")
    self.check("what is beside the frame is hidden", hidden > 0, hidden)
    self.shot(page, "svg-zoomed")
    page.key("Escape")
    page.wait(f"Math.abs({wide} - {share} * 1200) < 1")
    page.evaluate("prompt = () => '<SCRIPT>'")
    page.key("/")
    page.wait("document.getElementById('details').textContent.endsWith(' found')")
    found = page.evaluate("[document.querySelectorAll('.found').length, "
                          "document.getElementById('details').textContent]")  # fmt: skip
    self.check("a search marks the frames of that name", found[0] > 0 and found[1] == f"{found[0]} found", found)
    self.shot(page, "svg-found")
    page.evaluate("prompt = () => 'no such function'; search()")
    self.check("a search for what is not there finds nothing",
               page.evaluate("document.getElementById('details').textContent") == "0 found")
    problems = page.problems()
    self.check("the SVG's console is silent", problems == [], problems)

  def dhat(self, page):
    """The file of `export --format dhat` in Valgrind's own viewer."""
    places = ["/usr/libexec/valgrind", "/usr/lib/valgrind", "/usr/lib/x86_64-linux-gnu/valgrind"]
    viewer = next(filter(os.path.exists, (f"{place}/dh_view.html" for place in places)), None)
    if viewer is None:
      print("     Valgrind's dh_view.html is not installed: its reading of DHAT's format is not tested")
      return
    path = self.export("dhat", "heap.dhat")
    with open(path) as file:
      points = json.load(file)["pps"]
    page.open("file://" + viewer)
    page.wait("document.querySelector('input[type=file]') !== null")
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    field = page.call("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=field, files=[path])
    page.wait("document.body.textContent.includes('PP 1/')")
    text = page.evaluate("document.body.innerText")
    blocks = sum(point["tbk"] for point in points)
    self.check("dh_view shows the root with all live blocks", f"{blocks:,} blocks" in text, text[:1500])
    self.check("dh_view names functions", "parse_request (in " in text, text[:1500])
    self.shot(page, "dhat")
    problems = page.problems()
    self.check("dh_view's console is silent", problems == [], problems)

  def loads(self, page, target, rounds):
    """Opens a process's page anew, so many times: seconds until the facts are there, and until the flame graph is
    painted."""
    for _ in range(rounds):
      page.open("about:blank")
      start = time.monotonic()
      page.open(target)
      page.wait("document.querySelector('dd.large') !== null")
      facts = time.monotonic() - start
      page.wait("allocsd.flame?.tree !== undefined")
      # In the frame after the next, what was to be drawn in the next is painted.
      page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
      yield facts, time.monotonic() - start

  def zooms(self, page, rounds):
    """Zooms into the flame graph and out again, in turns: frames a second, and the milliseconds of the longest. The
    times of frames are those for which the browser makes them, and which it rounds: what is not painted in time makes
    a gap."""
    for turn in range(rounds):
      frames = page.evaluate(f"""new Promise(resolve => {{
        const flame = allocsd.flame;
        const [paint, frames] = [flame.paint, []];
        flame.paint = function (...all) {{ const start = performance.now(); paint.apply(flame, all);
          frames.push([document.timeline.currentTime, performance.now() - start]); }};
        flame.zoom({2 if turn % 2 == 0 else 0}, 0);
        setTimeout(() => {{ flame.paint = paint; resolve(frames); }}, 500); }})""")
      rate = (len(frames) - 1) * 1000 / (frames[-1][0] - frames[0][0])
      yield round(rate, 1), max(longest for _, longest in frames)

  def figures(self, page, rounds=7):
    """Prints what the page's speed is judged by."""
    page.size(1280)
    page.open(self.link)
    page.wait("document.querySelectorAll('tbody tr').length === 1")
    page.evaluate("document.querySelector('tbody a').click()")
    page.wait("allocsd.flame?.tree !== undefined && allocsd.hasTotal === true")
    loads = list(self.loads(page, page.evaluate("location.href"), rounds))
    zooms = list(self.zooms(page, 2 * rounds))
    for name, values in [("facts", [facts for facts, _ in loads]), ("graph", [graph for _, graph in loads]),
                         ("rate", [rate for rate, _ in zooms]), ("frame", [longest for _, longest in zooms])]:
      print(name, *(f"{value:.4f}" for value in values))

  def allocators(self, page):
    """The heap by allocator and arena: of the program, and of an answer with what the program has not."""
    rows = page.evaluate("""[...document.querySelectorAll('#view section tbody tr')].map(row =>
      [row.lastChild.className, row.querySelector('.clamp').textContent])""")
    names = [name for _, name in rows]
    heaps = [name for name in names if name.startswith("Heap 0x")]
    self.check("the C library's rows are itself, its greatest arenas, and the others in sum",
               names[0] == "libc.so.6" and rows[0][0] == "wide" and names[-1] == "6 other parts" and len(names) == 10
               and "The program break" in names and "Blocks with mappings of their own" in names and len(heaps) == 6
               and all(kind == "wide inner" for kind, _ in rows[1:]), rows)  # fmt: skip
    made = page.evaluate("""(async () => {
      const { heapRows, showMemory } = await import('/page/memory.js');
      const numbers = (live, rounded, beside, free) => ({ live_bytes: live, live_blocks: 1, resident_live: live,
        resident_rounded: rounded, resident_beside: beside, resident_free: free, resident: live + beside + free });
      const arenas = [...Array(12)].map((_, index) =>
        ({ kind: 'thread', start: `0x${index}`, ...numbers(100 - index, 1, 3, 2) }));
      const allocators = [
        { allocator: 'libc.so.6', arena_count: 5000, arenas, ...numbers(9000, 900, 2000, 400) },
        { allocator: '<img src=x onerror=alert(1)>', ...numbers(50, undefined, 20, 8) }, numbers(0, undefined, 0, 7)];
      const place = document.createElement('div');
      showMemory(place, { total: { resident: 0, swapped: 0, size: 0 }, parts: {}, allocators,
        heap: numbers(9050, 900, 2020, 415) });
      const unknown = document.createElement('div');
      showMemory(unknown, { total: { resident: 5, swapped: 0, size: 5 }, heap: { live_bytes: 5, live_blocks: 1 },
        parts: { heap: { resident: 5, swapped: 0, size: 5 } }, allocators: [{ live_bytes: 5, live_blocks: 1 }] });
      return [heapRows(allocators), [...place.querySelectorAll('section tbody tr')].map(row =>
        [...row.children].map(cell => cell.textContent)), place.querySelectorAll('img').length,
        unknown.querySelectorAll('section').length, unknown.querySelector('tbody').textContent]; })()""")
    rows, texts, images, tables, unknown = made
    inner = [row for row in rows if row.get("inner")]
    numbers = ["resident", "live", "rounded", "gaps", "free"]
    self.check("arenas beyond the shown are in the sum, those beyond the answer's list as well",
               len(rows) == 12 and inner[-1]["name"] == "4,992 other parts"
               and all(sum(row[key] for row in inner) == rows[0][key] for key in numbers), rows)
    self.check("an allocator that does not tell how it rounds has no number there, and its name is text",
               texts[10][2] == "not told" and texts[10][-1] == "<img src=x onerror=alert(1)>" and images == 0, texts)
    self.check("memory of nobody known is said to be that", texts[11][-1] == "Allocator not known", texts)
    self.check("where pages can't be told apart there is the heap as one", tables == 0 and "Heap" in unknown, unknown)

  def run(self, page):
    page.size(1280)
    page.scheme("light")
    origin = self.link.split("#")[0]
    page.open(origin)
    page.wait("document.querySelector('input[type=password]') !== null")
    self.check("without the token the page asks for it", True)
    page.open("about:blank")
    page.open(self.link)
    page.wait("document.querySelectorAll('tbody tr').length === 1")
    place = page.evaluate("location.hash")
    self.check("the token is not in the address", place == "#/", place)
    self.shot(page, "list-1280-light")

    # The process.
    page.evaluate("document.querySelector('tbody a').click()")
    page.wait("allocsd.flame?.tree !== undefined && allocsd.hasTotal === true")
    target = page.evaluate("location.href")
    for facts, graph in self.loads(page, target, 3):
      print(f"     seconds until facts {facts:.2f}, until the flame graph {graph:.2f}", flush=True)
    self.check("it has a million blocks", page.evaluate("allocsd.time.points[0].blocks") >= 1_000_000)
    rows = page.evaluate("allocsd.flame.tree.rows.map(row => row.nodes.length)")
    self.check("the flame graph has 20,000 stacks", max(rows) >= 20_000, rows)
    size = page.evaluate("JSON.stringify(allocsd.flame.file).length")
    print(f"     the graph's file has {size / 1e6:.1f} MB")
    for rate, longest in self.zooms(page, 2):
      print(f"     a zoom with {rate:.1f} frames a second, the longest painted in {longest:.1f} ms")
    self.shot(page, "flame-1280-light")

    # Names are text.
    self.check("the title is the page's own", "allocsd" in page.evaluate("document.title"))
    page.evaluate("allocsd.flame.search.value = '<script>'; allocsd.flame.find()")
    self.check("a name with markup is found", page.evaluate("allocsd.flame.found.textContent").startswith("12.0 MiB"),
               page.evaluate("allocsd.flame.found.textContent"))
    page.evaluate("allocsd.flame.invert.click()")
    page.wait("allocsd.flame.inverted && allocsd.flame.tree.rows.length > 2")
    self.shot(page, "inverted-1280-light")
    self.tab(page, "Sites")
    page.wait("document.querySelectorAll('tbody tr').length > 3")
    text = page.evaluate("document.getElementById('view').textContent")
    for name in ["<script>document.title=1</script><img/src=x onerror=alert(1)>", "quotes'`&amp;&lt;b&gt; ; %s ${x}"]:
      self.check(f"{name} is text", name in text)
    self.check("a name of 12,000 characters is shortened", "long_xxx" in text and "x" * 5000 not in text)
    rows = page.evaluate("[...document.querySelectorAll('tbody tr')].map(row => row.lastChild.textContent)")
    twins = [row for row in rows if row.startswith("twice")]
    self.check("sites of one name and place are told apart, and others have no address", len(set(rows)) == len(rows)
               and len(twins) == 2 and sum(" · 0x" in row for row in rows) == 2, rows)
    self.check("no element came from a name",
               page.evaluate("document.querySelectorAll('#main script, #main img').length") == 0)
    self.shot(page, "sites-1280-light")

    # The brush: what was made in the last seconds is the leak alone.
    page.wait("allocsd.time.points.length > 2")
    page.evaluate("window.scrollTo(0, 0)")
    self.drag(page, """(() => { const box = allocsd.time.canvas.getBoundingClientRect();
      return [0.97, (box.width - 1) / box.width].map(
        share => [box.left + box.width * share, box.top + box.height / 2]); })()""",
      "allocsd.time.window !== null && document.querySelectorAll('tbody tr').length === 1")  # fmt: skip
    self.check("the brush leads to what was made then",
               "leak" in page.evaluate("document.querySelector('tbody').textContent"),
               page.evaluate("document.querySelector('tbody').textContent")[:200])
    self.shot(page, "brush-1280-light")
    page.evaluate("allocsd.time.canvas.focus()")
    page.key("Escape")
    page.wait("allocsd.time.window === null")
    page.key("ArrowRight")
    page.wait("allocsd.time.window !== null")
    page.key("Escape")

    self.tab(page, "Change")
    page.evaluate("allocsd.mark.click()")
    page.wait("[...document.querySelectorAll('#view tbody tr')].some(row => row.textContent.includes('leak'))", 30)
    self.check("what grows since the mark is told, and nothing else",
               page.evaluate("document.querySelectorAll('#view tbody tr').length") == 1)
    self.shot(page, "change-1280-light")

    # Two moments that are past: looks that the page has kept. What it shows of them stays.
    page.wait("allocsd.change.looks.length >= 4", 60)
    page.evaluate("""(() => { const { change } = allocsd;
      change.starts.selectedIndex = 0;
      change.ends.selectedIndex = change.looks.length - 1;
      change.starts.dispatchEvent(new Event("change")); })()""")
    page.wait("allocsd.change.result.textContent.startsWith('From ')")
    told = page.evaluate("allocsd.change.result.querySelector('p').textContent")
    expected = page.evaluate("""(() => { const { change } = allocsd;
      const [from, to] = [change.from, change.to];
      return [to.total.bytes - from.total.bytes, [...document.querySelectorAll('#view tbody tr')].length,
        change.compare(from, to).rows.reduce((sum, row) => sum + row.bytes, 0)]; })()""")
    self.check("two past moments differ by the leak alone, and the rows add up",
               expected[0] == expected[2] > 0 and expected[1] == 1, expected)
    time.sleep(5)
    self.check("what was at two past moments does not change",
               page.evaluate("allocsd.change.result.querySelector('p').textContent") == told, told)
    self.shot(page, "moments-1280-light")
    page.evaluate("window.scrollTo(0, 0)")
    self.drag(page, """(() => { const box = allocsd.time.canvas.getBoundingClientRect();
      const [from, to] = allocsd.time.range(); const looks = allocsd.change.looks;
      return [looks[0], looks[2]].map(look =>
        [box.left + box.width * (look.time - from) / (to - from), box.top + box.height / 2]); })()""",
      """(() => { const { from, to, looks } = allocsd.change;
        return to !== null && from === looks[0] && to === looks[2]; })()""")  # fmt: skip
    self.check("the brush chooses the looks at its edges", True)
    both = page.evaluate("""(() => { const { change } = allocsd; const site = change.sites[0];
      const one = { time: 1, total: { bytes: 9, blocks: 1 }, sites: new Map([[0, [9, 1]]]), other: 5 };
      const two = { time: 2, total: { bytes: 8, blocks: 1 }, sites: new Map([[1, [8, 1]]]), other: 0 };
      const rows = change.compare(one, two); return [rows.rows.map(row => row.kind), rows.open]; })()""")
    self.check("a site that a look may have left out is not told to be new", both == [["gone"], 1], both)
    kept = page.evaluate("""(() => { const { change } = allocsd; const look = change.looks[1];
      const other = new change.constructor(() => {}, () => {});
      for (let turn = 0; turn < 500; turn += 1) other.keep({ ...look, time: turn }, turn % 3 === 0);
      const times = other.looks.map(look => look.time);
      return [times.length, times.at(-1),
        times.every((time, index) => index === 0 || times[index - 1] < time)]; })()""")
    self.check("the looks that are kept are bounded", kept[0] <= 60 and kept[1:] == [499, True], kept)
    page.evaluate("allocsd.time.canvas.focus()")
    page.key("Escape")

    self.tab(page, "Address space")
    page.wait("allocsd.map.map !== undefined && allocsd.map.laid === allocsd.map.map")
    total = page.evaluate("allocsd.map.map.total.blocks")
    self.check("the map has all blocks", total >= 1_000_000, total)
    self.drag(page, """(() => { const map = allocsd.map;
      const span = map.map.spans.findIndex(span => span.cells.some(cell => cell[1] > 2));
      const cell = map.map.spans[span].cells.findIndex(cell => cell[1] > 2);
      const down = map.tops[span] + 18 + Math.floor(cell / map.across) * 9 + 4;
      map.canvas.parentElement.scrollIntoView({ block: "center" });
      map.canvas.parentElement.scrollTop = down - 100;
      const box = map.canvas.getBoundingClientRect();
      return [[box.left + (cell % map.across) * 9 + 4, box.top + down]]; })()""",
      "allocsd.answerBelow.textContent.includes('a live block')")  # fmt: skip
    self.check("a click on the map leads to the block", True)
    for colour in ["site", "age"]:
      page.evaluate(f"allocsd.map.colour('{colour}')")
      time.sleep(0.2)
      self.shot(page, f"map-{colour}-1280-light")
    page.evaluate(
      "[...allocsd.map.detail.querySelectorAll('button')].find(b => b.textContent.startsWith('Look')).click()")
    page.wait("allocsd.map.trail.length === 1 && allocsd.map.map.cell_bytes === 16")
    page.evaluate("allocsd.map.back.click()")
    page.wait(f"allocsd.map.trail.length === 0 && allocsd.map.map.total.blocks >= {total}")
    page.evaluate("allocsd.map.colour('occupancy')")
    self.shot(page, "map-1280-light")

    self.tab(page, "Resident memory")
    page.wait("document.querySelectorAll('.stackbar > div').length > 2")
    self.shot(page, "memory-1280-light")
    self.allocators(page)
    self.tab(page, "Address")
    page.evaluate("allocsd.query('0x1')")
    page.wait("document.getElementById('view').textContent.includes('not mapped')")
    page.evaluate("allocsd.query('nonsense')")
    page.wait("document.getElementById('view').textContent.includes('is not an address')")
    base = page.evaluate("allocsd.map.map.spans[0].cells.find(cell => cell.length)[2]")
    page.evaluate(f"allocsd.query('{base}')")
    page.wait("document.querySelector('#view ol') !== null")
    self.shot(page, "address-1280-light")

    # Narrow, dark, and the keyboard.
    for scheme in ["dark", "light"]:
      page.scheme(scheme)
      for width in [1280, 400]:
        page.size(width, mobile=width < 500)
        for title in ["Flame graph", "Sites", "Change", "Address space", "Resident memory", "Address"]:
          if scheme == "light" and width == 1280:
            continue
          self.tab(page, title)
          page.wait("!document.body.textContent.includes('…\\n') && allocsd.words.textContent.startsWith('As of')")
          time.sleep(0.3)
          across = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
          self.check(f"{title} fits {width} pixels", across[0] <= across[1], across)
          self.shot(page, f"{title.lower().replace(' ', '-')}-{width}-{scheme}")
    page.size(1280)
    page.evaluate("document.querySelector('[role=tab][aria-selected=true]').focus()")
    page.key("Home")
    page.wait("allocsd.current === allocsd.views[0]")
    page.key("ArrowRight")
    page.wait("allocsd.current === allocsd.views[1]")
    self.check("arrows go from view to view", True)
    # Questions that were wrong on purpose.
    problems = [line for line in page.problems() if "status of 40" not in line]
    self.check("the console is silent", problems == [], problems)

    # The process ends; the server goes; another process than there is.
    self.program.stdin.close()
    self.program.wait()
    page.wait("document.body.textContent.includes('ended')", 30)
    self.check("the end of the process is said", True)
    self.shot(page, "ended-1280-light")
    page.evaluate("location.hash = '#/process/999999999'")
    page.wait("document.body.textContent.includes('there is no process 999999999')")
    self.check("a process that there is not is said", True)
    page.evaluate("location.hash = '#/'")
    page.wait("document.body.textContent.includes('No indexed process runs')")
    self.shot(page, "none-1280-light")
    self.front.send_signal(signal.SIGTERM)
    self.front.wait()
    page.wait("document.body.textContent.includes(\"can't be reached\")", 30)
    self.check("that the server is gone is said", True)
    self.shot(page, "gone-1280-light")


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--screenshots")
  parser.add_argument("--figures", action="store_true")
  arguments = parser.parse_args()
  if browser.installed() is None:
    print("Chromium is not installed, the page was not looked at: scripts/install-dependencies page")
    return 0
  if arguments.screenshots:
    os.makedirs(arguments.screenshots, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix="allocs-page.", dir="/dev/shm") as directory:
    test = Test(directory, arguments.screenshots)
    page = None
    try:
      test.begin()
      page = browser.Browser()
      if arguments.figures:
        test.figures(page)
        return 0
      test.flamegraph(page)
      test.dhat(page)
      test.run(page)
    finally:
      if page:
        page.close()
      test.stop()
  print(f"{len(test.failures)} of the checks failed" if test.failures else "all checks hold")
  return 1 if test.failures else 0


if __name__ == "__main__":
  sys.exit(main())
