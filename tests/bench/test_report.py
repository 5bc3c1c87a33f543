"""Tables, ratios and the picture, of figures that are known."""

from __future__ import annotations

from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from bench.report import Results, ratios, spell, to_rst, to_svg

SVG = "{http://www.w3.org/2000/svg}"


def results() -> Results:
    """Three rounds, in which the machine gets slower and slower; one figure failed once."""
    made = Results(rounds=3, about={"machine": "2 x slow"}, missing=["tinc: there is no tincd"])
    for number, (ours, theirs) in enumerate(((3.0, 2.0), (1.5, 1.2), (0.9, 0.6))):
        made.add("pyvpn", "tcp", number, ours)
        made.add("wireguard-go", "tcp", number, theirs)
        made.add("pyvpn", "cpu", number, 2.0)
        if number != 1:
            made.add("wireguard-go", "cpu", number, 4.0)
        made.add("pyvpn @wire", "tcp", number, 1.0)
    return made


class ReportTests(SynchronousTestCase):
    """What is written into ``bench/results``."""

    def test_ratios(self) -> None:
        """Of each round by itself, since the machine drifts; rounds that lack one do not count."""
        found = ratios(results(), "tcp", "pyvpn", "wireguard-go")
        self.assertEqual([1.25, 1.5, 1.5], [round(each, 9) for each in found])
        self.assertEqual([0.5, 0.5], ratios(results(), "cpu", "pyvpn", "wireguard-go"))
        self.assertEqual([], ratios(results(), "udp", "pyvpn", "wireguard-go"))
        self.assertEqual([], ratios(results(), "tcp", "pyvpn", "nobody"))

    def test_spell(self) -> None:
        """The median, and the range where there is one."""
        self.assertEqual("1.50 (0.90-3.00)", spell([3.0, 0.9, 1.5], 2))
        self.assertEqual("2.0", spell([2.0, 2.0], 1))
        self.assertEqual("-", spell([], 2))

    def test_table(self) -> None:
        """Each contender has its figures, cable by cable; what nobody has is no row."""
        text = to_rst(results())
        rows = [
            [cell.strip() for cell in line.split("|")[1:-1]]
            for line in text.splitlines()
            if line.startswith("|")
        ]
        self.assertIn(["", "pyvpn", "wireguard-go"], rows)
        tcp = ["TCP 1 stream, Gbit/s", "1.50 (0.90-3.00)", "1.20 (0.60-2.00)"]
        self.assertIn(tcp, rows)
        self.assertIn(["TCP 1 stream, Gbit/s", "1.00"], rows)
        self.assertIn(["CPU per GB, s", "2.0", "4.0"], rows)
        self.assertNotIn("UDP 1400 B", text)
        self.assertIn("* machine: 2 x slow", text)
        self.assertIn("* tinc: there is no tincd", text)
        widths = {len(line) for line in text.split("\n\n")[3].splitlines()}
        self.assertEqual(1, len(widths), "a grid table is a grid")

    def test_targets(self) -> None:
        """A ratio is held against what was promised, where more is better, and where less is."""
        rows = [line for line in to_rst(results()).splitlines() if "native UDP" in line]
        tcp, cpu = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
        self.assertEqual(["1.50 (1.25-1.50)", ">= 1.3", "met"], tcp[3:])
        self.assertEqual(["0.50", "<= 0.75", "met"], cpu[3:])
        slow = Results(rounds=1)
        slow.add("pyvpn", "tcp", 0, 1.2)
        slow.add("wireguard-go", "tcp", 0, 1.0)
        self.assertIn("not met", to_rst(slow))

    def test_picture(self) -> None:
        """A picture that a browser takes, with a bar for each, as long as the figure."""
        root = ElementTree.fromstring(to_svg(results()))  # noqa: S314 - our own
        bars = list(root.iter(f"{SVG}rect"))[1:]
        lengths = [float(each.attrib["width"]) for each in bars]
        self.assertEqual(5, len(bars))
        self.assertAlmostEqual(1.5 / 1.2, lengths[0] / lengths[1], places=2)
        self.assertAlmostEqual(2.0, lengths[4] / lengths[3], places=2)
        names = [each.text for each in root.iter(f"{SVG}text")]
        self.assertIn("pyvpn @wire", names)

    def test_escaped(self) -> None:
        """Whatever a contender is called."""
        odd = Results(rounds=1)
        odd.add("<a & b>", "tcp", 0, 1.0)
        ElementTree.fromstring(to_svg(odd))  # noqa: S314 - our own

    def test_nothing(self) -> None:
        """Without any figure there is a report all the same, which says what was missing."""
        empty = Results(missing=["everything"])
        self.assertIn("* everything", to_rst(empty))
        ElementTree.fromstring(to_svg(empty))  # noqa: S314 - our own
