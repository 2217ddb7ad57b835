"""Blocks of published architectures: what a row of `architectures/*.yml` adds to a graph.

The public methods of `Blocks` are the values of `op` in those files (with `_` for `-`), and their
arguments are the columns of a row. Maps are padded "same" if nothing else is said.
"""

from collections.abc import Sequence
from typing import Any

from edgeutils.networks.rows import Rows, make_divisible

#: Edges of a cell of NAS-Bench-201, from and to, in the order of its names and numbers.
CELL_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


class Blocks(Rows):
    """Rows that add a whole block of their paper, the oldest first."""

    def inception(self, one: int, three: Sequence[int], five: Sequence[int], pool: int) -> None:
        """Add GoogLeNet's module of four branches."""
        entry = self.value
        small, large = ((three[0], 1), (three[1], 3)), ((five[0], 1), (five[1], 5))
        branches = [self._branch(entry, convs) for convs in (((one, 1),), small, large)]
        pooled = self.net.maxpool(entry, 3)
        self.value = self.net.concat([*branches, self._branch(pooled, ((pool, 1),))])

    def basic(self, out: int, stride: int = 1) -> None:
        """Add ResNet's block of two convolutions."""
        cout = self._kept(out, stride)
        self._residual(((self._out(out), 3, stride), (cout, 3, 1)), out, stride)

    def bottleneck(self, mid: int, out: int, stride: int = 1) -> None:
        """Add ResNet's block of three convolutions (version 1.5: the middle one has the stride)."""
        cout = self._kept(out, stride)
        inner = ((self._out(mid), 1, 1), (self._out(mid), 3, stride), (cout, 1, 1))
        self._residual(inner, out, stride)

    def fire(self, squeeze: int, out: int) -> None:
        """Add SqueezeNet's module: squeeze, then expand with 1 x 1 and with 3 x 3 windows."""
        squeezed = self._branch(self.value, ((squeeze, 1),))
        branches = [self._branch(squeezed, ((out, kernel),)) for kernel in (1, 3)]
        self.value = self.net.concat(branches)

    def dense(self, growth: int) -> None:
        """Add DenseNet's layer, which appends `growth` channels."""
        entry, growth = self.value, self._out(growth)
        self.same("bnrelu")
        self._conv(4 * growth, 1)
        self._conv(growth, self._size(3), act="")
        self.value = self.net.concat([entry, self.value])

    def transition(self) -> None:
        """Add what lies between DenseNet's blocks: half the channels, half the side."""
        self.same("bnrelu")
        self._conv(self.channels // 2, 1, act="")
        self.avgpool(2, 2)

    def separable(self, out: int, stride: int = 1) -> None:
        """Add MobileNetV1's block: depthwise, then pointwise."""
        self.depthwise(stride=stride)
        self.conv(out)

    def inverted(self, out: int, expand: float, stride: int = 1, **how: Any) -> None:
        """Add MobileNetV2's and V3's block: expand, depthwise, squeeze, project, add.

        `how`: kernel, dilation, act, se (squeeze-and-excitation) and `tap`, a name for the
        expanded map.
        """
        entry, before = self.value, self.published
        self._expand(expand, how.get("act"))
        if how.get("tap"):
            self.named[how["tap"]] = (self.value, self.channels)
        size = self._size(3 if self.minimalistic else how.get("kernel", 3))
        self._dwconv(size, stride, act=how.get("act"), dilation=how.get("dilation", 1))
        if how.get("se") and not self.minimalistic:
            self.value = self.net.se(self.value, make_divisible(self.channels / 4))
        self.published = self._scaled(out)
        residual = stride == 1 and before == self.published
        cout = self.net.shapes[entry][2] if residual else self._out(self.published)
        self._conv(cout, 1, act="")
        if residual:
            self.value = self.net.add(self.value, entry)

    def shuffle(self, out: int, stride: int = 1) -> None:
        """Add ShuffleNetV2's unit: one half of the channels passes, the other one is worked on."""
        size = self._size(3)
        if stride == 1:
            passed, worked = self.net.split(self.value)
            half = self.channels // 2
        else:
            self.published, worked = out, self.value
            half = max(1, self._out(out) // 2)
            self._dwconv(size, stride, act="")
            self._conv(half, 1)
            passed = self.value
        self.value = worked
        self._conv(self.resampling.scaled(half, self.resampling.mid_tenths), 1)
        self._dwconv(size, stride, act="")
        self._conv(half, 1)
        self.value = self.net.concat([passed, self.value])
        self.value = self.net.same("channelshuffle", self.value, groups=2)

    def rrdb(self, growth: int) -> None:
        """Add ESRGAN's block of three dense blocks, as its TensorFlow Lite version has it.

        Its scalings by a constant are left out: most merge with the weights before them.
        """
        entry = self.value
        for _ in range(3):
            outer = joined = self.value
            for _ in range(4):
                self._conv(growth, 3)
                joined = self.value = self.net.concat([joined, self.value])
            self._conv(self.net.shapes[outer][2], 3, act="")
            self.value = self.net.add(outer, self.net.add(outer, self.value))
        self.value = self.net.add(entry, self.value)

    def cell(self) -> None:
        """Add a cell of NAS-Bench-201: four nodes, and an operator on each edge between them.

        What does not reach the last node is left out; what reads zeros is not.
        """
        edges = dict(zip(CELL_EDGES, self.edges, strict=True))
        live = {3}
        for source, target in sorted(CELL_EDGES, key=lambda edge: -edge[1]):
            if target in live and edges[source, target] != "none":
                live.add(source)
        nodes = {0: self.value}
        for node in sorted(live - {0}):
            found = [(nodes[i], edges[i, j]) for i, j in CELL_EDGES if j == node and i in nodes]
            terms = [self._edge(value, op) for value, op in found if op != "none"]
            # A node that nothing reaches is its cell's input times zero.
            total, *more = terms or [self.net.same("bn", nodes[0])]
            for term in more:
                total = self.net.add(total, term)
            nodes[node] = total
        self.value = nodes[3]

    def _edge(self, value: int, op: str) -> int:
        if op == "skip":
            return value
        if op == "avgpool":
            return self.net.avgpool(value, 3)
        kernel = {"conv1x1": 1, "conv3x3": 3}[op]
        return self.net.conv(self.net.same("relu", value), self.net.shapes[value][2], kernel)

    def reduction(self, out: int) -> None:
        """Add the block between NAS-Bench-201's stages: half the side, activation first."""
        entry = self.value
        for stride in (2, 1):
            self.same("relu")
            self._conv(out, 3, stride, act="")
        worked, self.value = self.value, entry
        self.avgpool(2, 2)
        self._conv(out, act="")
        self.value = self.net.add(self.value, worked)

    def project(self, out: int) -> None:
        """Add a fully connected layer on every token, and MobileBERT's scale and shift."""
        self.value = self._dense(self.value, out)

    def transformer(self, inner: int, heads: int, stacked: int) -> None:
        """Add MobileBERT's layer: into the bottleneck, attention, stacked feed-forward, out.

        Heads are read from the tokens' numbers without the transpositions of the original.
        """
        net, entry, outer = self.net, self.value, self.channels
        tokens = net.shapes[entry][1]
        narrow, shared = (self._dense(entry, inner) for _ in range(2))
        split = (heads, tokens, inner // heads)
        query, key, worth = (
            net.reshape(net.fc(value, inner), split) for value in (shared, shared, entry)
        )
        weights = net.same("softmax", net.matmul(query, key, (heads, tokens, tokens)))
        context = net.reshape(net.matmul(weights, worth, split), (1, tokens, inner))
        self.value = net.same("bn", net.add(net.fc(context, inner), narrow))
        for _ in range(stacked):
            wide = net.fc(self.value, outer, activation="relu")
            self.value = net.same("bn", net.add(net.fc(wide, inner), self.value))
        self.value = net.same("bn", net.add(net.fc(self.value, outer), entry))

    def _dense(self, value: int, out: int) -> int:
        return self.net.same("bn", self.net.fc(value, out))

    # What the blocks share.

    def _branch(self, value: int, convs: Sequence[tuple[int, int]]) -> int:
        """Add convolutions (channels, window) on a value."""
        self.value = value
        for cout, kernel in convs:
            self._conv(self._out(cout), self._size(kernel))
        return self.value

    def _residual(self, convs: Sequence[tuple[int, int, int]], published: int, stride: int) -> None:
        """Add convolutions and the map that they start from, projected where shapes differ."""
        entry, projected = self.value, stride != 1 or self.published != published
        for i, (cout, kernel, step) in enumerate(convs, 1):
            self._conv(cout, self._size(kernel), step, act="" if i == len(convs) else None)
        worked = self.value
        if projected:
            self.value = entry
            self._conv(convs[-1][0], 1, stride, act="")
            entry = self.value
        self.value, self.published = self.net.add(worked, entry, relu=True), published

    def _kept(self, out: int, stride: int) -> int:
        """Channels that a residual block writes: those it reads, or others where it projects."""
        return self.channels if stride == 1 and out == self.published else self._out(out)

    def _expand(self, expand: float, act: str | None) -> None:
        if expand == 1:
            return
        drawn = self.channels * self.resampling.choice(self.resampling.expansions, expand)
        self._conv(int(drawn) if self.resampling.seed else make_divisible(drawn), act=act)
