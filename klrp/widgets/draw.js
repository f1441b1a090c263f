// The live figure: draw a digit, and the page itself runs the network 784-300-100-10 and walks back through it.
//
// klrpLive(element, weights, settings) builds it into an element. `weights` are the network's parameters as float16 in
// base64 (klrp.widgets.drawing.weights); `settings` are the data attributes of the element. The numbers are doubles, and
// those of klrp.explain for klrp.models.digit_mlp(seed=0).double(). A plain script without anything else to load.

var klrpLive = (() => {
  "use strict";
  const SIZES = [784, 300, 100, 10];
  const TINY = 2 ** -1022; // a denominator below it counts as 0
  // ------------------------------------------------------------------------------------------------- the network
  // The numbers of float16s in base64, little-endian.
  function halves(base64) {
    const text = atob(base64);
    const numbers = new Float64Array(text.length / 2);
    const scales = Array.from({ length: 32 }, (_, exponent) => 2 ** (Math.max(exponent, 1) - 25));
    for (let i = 0; i < numbers.length; i++) {
      const bits = text.charCodeAt(2 * i) | (text.charCodeAt(2 * i + 1) << 8);
      const exponent = (bits >> 10) & 31;
      const size = ((exponent ? 1024 : 0) + (bits & 1023)) * scales[exponent];
      numbers[i] = bits >> 15 ? -size : size;
    }
    return numbers;
  }

  // The three layers: weights w [outputs * inputs], row by row, and biases b [outputs].
  function network(base64) {
    const numbers = halves(base64);
    let at = 0;
    return [0, 1, 2].map((l) => {
      const [inputs, outputs] = [SIZES[l], SIZES[l + 1]];
      const w = numbers.subarray(at, at + inputs * outputs);
      const b = numbers.subarray(at + w.length, at + w.length + outputs);
      at += w.length + outputs;
      return { inputs, outputs, w, b };
    });
  }

  // What the network computes for x [784]: what each layer reads (a), which of that is not 0 (active), what it gives (z).
  function forward(net, x) {
    const a = [x];
    const z = [];
    const active = [];
    for (const [l, layer] of net.entries()) {
      active.push([...a[l].keys()].filter((j) => a[l][j] !== 0));
      const values = Float64Array.from(layer.b);
      for (let k = 0; k < layer.outputs; k++) {
        const row = k * layer.inputs;
        for (const j of active[l]) values[k] += a[l][j] * layer.w[row + j];
      }
      z.push(values);
      a.push(values.map((v) => Math.max(v, 0)));
    }
    const top = Math.max(...z[2]);
    const powers = z[2].map((v) => Math.exp(v - top));
    const sum = powers.reduce((s, v) => s + v);
    return { a, z, active, chances: powers.map((v) => v / sum), answer: z[2].indexOf(top) };
  }
  // ---------------------------------------------------------------------------------------------------- the walk
  const add = (x, y) => x + y;
  const largest = (x, y) => (x > y ? x : y);
  const product = (x, y) => x * y;

  // The p-norm of two numbers from 0 up, relative to the larger one, so that no power overflows.
  function norm(p) {
    const least = 2 ** (-54 / p); // what is smaller beside the other adds nothing
    return (x, y) => {
      const high = x < y ? y : x;
      const low = x < y ? x : y;
      return low > least * high ? high * (1 + (low / high) ** p) ** (1 / p) : high;
    };
  }

  // What a rule makes of a weight, and of a bias where the bias has a part in z; `plain`: z is what the layer gives.
  const RULES = {
    lrp0: { name: "LRP-0", plain: true, omega: () => (w) => w },
    epsilon: { name: "LRP-ε", plain: true, omega: () => (w) => w, slider: "epsilon" },
    gamma: { name: "LRP-γ", biased: true, omega: (ask) => (w) => (w > 0 ? w + ask.gamma * w : w), slider: "gamma" },
    zplus: { name: "z⁺", biased: true, omega: () => (w) => (w > 0 ? w : 0) },
    share: { name: "max share", omega: () => Math.abs },
  };
  const LRP = ["epsilon", "lrp0", "gamma", "zplus"]; // the first is the default

  // plus and times; theta: "cut" makes 1 of a share from θ up, "keep" leaves it as it is; both make 0 of one below.
  const SEMIRINGS = {
    real: { name: "real: how much", rules: LRP, plus: add, times: product },
    boolean: { name: "Boolean: whether", rules: LRP, plus: largest, times: product, theta: "cut", colours: "two" },
    counting: { name: "counting: how many paths", rules: LRP, plus: add, times: product, theta: "cut" },
    viterbi: { name: "Viterbi: the best path", rules: ["share"], plus: largest, times: product, theta: "keep" },
    fuzzy: { name: "fuzzy: its weakest share", rules: ["share"], plus: largest, times: Math.min, theta: "keep" },
    dial: { name: "dial: sum to maximum", rules: ["share"], times: product, slider: "p" },
  };
  const USUAL = { epsilon: 1e-9, gamma: 0.25, p: 4, theta: null }; // θ: klrp's default for the semiring

  // A question with all that it leaves open: the rule, ε, γ, p, and θ, which is 1e-9 for a cut and else 0.
  function completed(ask) {
    const semiring = SEMIRINGS[ask.semiring];
    const rule = semiring.rules.includes(ask.rule) ? ask.rule : semiring.rules[0];
    const theta = ask.theta ?? (semiring.theta === "cut" ? 1e-9 : 0);
    return { ...USUAL, ...ask, rule, theta };
  }

  // Θ as a function of a share.
  function conversion(kind, theta) {
    if (kind === "cut") return (d) => (d >= theta ? 1 : 0);
    if (kind === "keep" && theta > 0) return (d) => (d >= theta ? d : 0);
    return (d) => d;
  }

  // z of neuron k of a layer, stabilised, for one run of the network; ∞ where it is 0, so that all shares into k are 0.
  function denominator(layer, a, active, given, k, rule, omega, join, epsilon) {
    let z = given;
    if (!rule.plain) {
      const row = k * layer.inputs;
      z = 0;
      for (const j of active) z = join(z, a[j] * omega(layer.w[row + j]));
      if (rule.biased) z += omega(layer.b[k]);
    } else if (rule.slider) z += z < 0 ? -epsilon : epsilon;
    return Math.abs(z) < TINY ? Infinity : z;
  }

  // R_j = ⊕_k Θ(d_jk) ⊗ R_k from the class down: the maps [784], [300], [100], [10], and the denominators of each layer.
  //
  // With two runs an edge has what the smaller Θ of the two gives: with a cut, 1 where it is relevant for both, each for
  // its own class.
  function walk(net, runs, targets, question) {
    const ask = completed(question);
    const semiring = SEMIRINGS[ask.semiring];
    const rule = RULES[ask.rule];
    const omega = rule.omega(ask);
    const plus = semiring.plus ?? norm(ask.p);
    const join = ask.rule === "share" ? plus : add;
    const theta = conversion(semiring.theta, ask.theta);
    const maps = [new Float64Array(10)];
    const denominators = [];
    maps[0][targets[0]] = 1;
    for (let l = 2; l >= 0; l--) {
      const layer = net[l];
      const [above, below] = [maps[0], new Float64Array(layer.inputs)];
      const known = new Float64Array(layer.outputs);
      const active = runs[0].active[l].filter((j) => runs.every((run) => run.a[l][j] !== 0));
      for (let k = 0; k < layer.outputs; k++) {
        if (above[k] === 0) continue;
        const [{ a, row, z }, other] = runs.map((run, i) => {
          const up = l === 2 ? targets[i] : k;
          const z = denominator(layer, run.a[l], run.active[l], run.z[l][up], up, rule, omega, join, ask.epsilon);
          return { a: run.a[l], row: up * layer.inputs, z };
        });
        known[k] = z;
        for (const j of active) {
          let element = theta((a[j] * omega(layer.w[row + j])) / z);
          if (other) element = Math.min(element, theta((other.a[j] * omega(layer.w[other.row + j])) / other.z));
          below[j] = plus(below[j], semiring.times(element, above[k]));
        }
      }
      maps.unshift(below);
      denominators.unshift(known);
    }
    return { maps, denominators };
  }

  // The best path from a pixel to the class, by the maps of a walk in Viterbi: from j to the k with d_jk ⊗ R_k = R_j.
  function bestPath(net, run, best, pixel) {
    if (!best || best.maps[0][pixel] === 0) return null;
    const [neurons, shares] = [[pixel], []];
    for (let l = 0; l < 3; l++) {
      const j = neurons[l];
      let [found, share, most] = [-1, 0, 0];
      for (let k = 0; k < net[l].outputs; k++) {
        if (best.maps[l + 1][k] === 0) continue;
        const d = (run.a[l][j] * Math.abs(net[l].w[k * net[l].inputs + j])) / best.denominators[l][k];
        if (d * best.maps[l + 1][k] > most) [found, share, most] = [k, d, d * best.maps[l + 1][k]];
      }
      neurons.push(found);
      shares.push(share);
    }
    return { neurons, shares, product: best.maps[0][pixel] };
  }
  // ------------------------------------------------------------------------------------------- strokes and pixels
  const PEN = 1.3; // the pen's radius in pixels of 28; half a pixel more is its soft edge

  // Points [x, y] along a smooth curve through some, in hundredths of the sheet (a Catmull-Rom spline).
  function curve(text) {
    const numbers = text.trim().split(/\s+/).map((n) => n / 100);
    const points = Array.from({ length: numbers.length / 2 }, (_, i) => [numbers[2 * i], numbers[2 * i + 1]]);
    const at = (i) => points[Math.min(Math.max(i, 0), points.length - 1)];
    const smooth = [points[0]];
    for (let i = 0; i + 1 < points.length; i++) {
      for (let t = 0.125; t <= 1; t += 0.125) {
        const along = (c) => {
          const [p, q, r, s] = [at(i - 1)[c], at(i)[c], at(i + 1)[c], at(i + 2)[c]];
          return q + 0.5 * t * (r - p + t * (2 * p - 5 * q + 4 * r - s + t * (3 * (q - r) + s - p)));
        };
        smooth.push([along(0), along(1)]);
      }
    }
    return smooth;
  }

  // Ten digits of our own: the points of their strokes, which the same pen draws as the reader's.
  const EXAMPLES = [
    ["52 14 33 24 26 50 33 77 50 87 68 77 75 50 68 24 52 14"],
    ["56 13 51 50 46 87"],
    ["30 32 38 18 54 14 67 22 68 38 57 54 42 70 28 84", "28 84 50 82 75 85"],
    ["30 21 47 14 64 20 65 34 46 46", "46 46 66 52 71 68 56 85 36 85 26 76"],
    ["36 16 31 34 28 52 49 54 73 50", "66 22 62 50 58 88"],
    ["71 15 38 17", "38 17 34 45", "34 45 52 42 68 52 70 70 56 85 37 85 27 77"],
    ["63 13 43 28 31 54 34 78 50 87 66 78 66 62 52 55 38 63 33 73"],
    ["27 20 50 19 74 17", "74 17 58 48 46 88"],
    ["50 49 37 34 41 19 53 14 65 20 63 35 50 49 36 62 34 77 50 87 66 77 65 62 50 49"],
    ["66 27 52 15 37 24 36 41 49 49 63 40 66 27", "66 27 63 58 55 88"],
  ].map((strokes) => strokes.map(curve));

  // Draws a segment from p to q into pixels x of 28 x 28, with ink from 0 to 1.
  function inkAlong(x, p, q) {
    const [dx, dy] = [q[0] - p[0], q[1] - p[1]];
    const length = dx * dx + dy * dy;
    const reach = PEN + 0.5;
    const range = (c) => [Math.min(p[c], q[c]) - reach, Math.max(p[c], q[c]) + reach];
    const [[left, right], [top, bottom]] = [range(0), range(1)];
    for (let row = Math.max(0, Math.floor(top)); row <= Math.min(27, bottom); row++) {
      for (let column = Math.max(0, Math.floor(left)); column <= Math.min(27, right); column++) {
        const [across, down] = [column + 0.5 - p[0], row + 0.5 - p[1]];
        const t = length ? Math.min(Math.max((across * dx + down * dy) / length, 0), 1) : 0;
        const ink = Math.min(1, reach - Math.hypot(across - t * dx, down - t * dy));
        x[28 * row + column] = Math.max(x[28 * row + column], ink);
      }
    }
  }

  // Strokes on a sheet of size 1 as MNIST has them: scaled to a box of 20 x 20 pixels, the aspect kept, the centre of mass
  // at the middle of 28 x 28, grey in steps of 1/255. Gives x [784], and where a pixel lies on the sheet; null if blank.
  function pictureOf(strokes) {
    const points = strokes.flat();
    if (!points.length) return null;
    const [low, high] = [Math.min, Math.max].map((end) => [0, 1].map((c) => end(...points.map((p) => p[c]))));
    const extent = Math.max(high[0] - low[0], high[1] - low[1]);
    const scale = Math.min((20 - 2 * PEN - 1) / extent, 100);
    const drawn = (shift) => {
      const place = (p) => [0, 1].map((c) => 14 + (p[c] - (low[c] + high[c]) / 2) * scale + shift[c]);
      const x = new Float64Array(784);
      for (const stroke of strokes) {
        const placed = stroke.map(place);
        placed.forEach((p, i) => inkAlong(x, p, placed[i + 1] ?? p));
      }
      return x.map((v) => Math.round(255 * v) / 255);
    };
    const x = drawn([0, 0]);
    const ink = x.reduce(add);
    const mass = (coordinate) => x.reduce((sum, v, i) => sum + v * coordinate(i), 0) / ink;
    // In MNIST the centre of mass has the index 14 in either direction, up to rounding to whole pixels.
    const shift = [Math.round(14 - mass((i) => i % 28)), Math.round(14 - mass((i) => Math.floor(i / 28)))];
    const back = (v, c) => (v - 14 - shift[c]) / scale + (low[c] + high[c]) / 2;
    return { x: drawn(shift), size: 1 / scale, corner: (i) => [back(i % 28, 0), back(Math.floor(i / 28), 1)] };
  }
  // ---------------------------------------------------------------------------------------------------- colours
  const REDS = ["#ffffff", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"];
  const BLUES = ["#ffffff", "#d1e5f0", "#92c5de", "#4393c3", "#2166ac", "#053061"];
  const [INK, GREY] = ["#1a1a1a", "#595959"];

  // 129 colours from white to dark, as klrp.plot has them.
  function shades(ends) {
    const channels = ends.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
    return Array.from({ length: 129 }, (_, i) => {
      const at = Math.min(Math.floor((i / 128) * 5), 4);
      const t = (i / 128) * 5 - at;
      return `rgb(${channels[at].map((v, c) => Math.round(v + t * (channels[at + 1][c] - v)))})`;
    });
  }
  const [RED, BLUE] = [shades(REDS), shades(BLUES)];

  // The colour of a value beside the others of its map: the scale ends at the 99.5th percentile, or else the largest.
  function colouring(values, kind) {
    if (kind === "two") return (v) => (v ? REDS[4] : "#ffffff");
    const sizes = Float64Array.from(values, Math.abs).sort();
    const at = 0.995 * (sizes.length - 1);
    const [low, high] = [sizes[Math.floor(at)], sizes[Math.ceil(at)]];
    const limit = low + (at - Math.floor(at)) * (high - low) || sizes[sizes.length - 1] || 1;
    return (v) => (v < 0 ? BLUE : RED)[Math.round(128 * Math.min(1, Math.abs(v) / limit))];
  }
  // ------------------------------------------------------------------------------------------------- small helps
  // An element with attributes and children; on... are listeners.
  function make(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // Two digits of a number, and whole numbers with their thousands apart.
  const written = (v) => (Number.isInteger(v) && v < 1e15 ? v.toLocaleString("en") : String(Number(v.toPrecision(2))));
  const percent = (v) => `${v > 0.995 ? "over 99" : Math.round(100 * v)} %`;
  const counted = (n, thing) => `${written(n)} ${thing}${n === 1 ? "" : "s"}`;

  // Where an event lies in an element: from 0 to 1 in either direction.
  function within(element, event) {
    const box = element.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  // A canvas made sharp for the screen, cleared to white; gives its context in units of CSS pixels.
  function cleared(canvas, width, height) {
    const density = Math.min(window.devicePixelRatio || 1, 3);
    Object.assign(canvas, { width: Math.round(width * density), height: Math.round(height * density) });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    const pen = canvas.getContext("2d");
    pen.scale(density, density);
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, width, height);
    return pen;
  }

  // A thin grey frame of a square.
  function framed(pen, left, top, size) {
    Object.assign(pen, { strokeStyle: "#b0b0b0", lineWidth: 1 });
    pen.strokeRect(left + 0.5, top + 0.5, size - 1, size - 1);
  }

  // A map of 28 x 28 in its frame.
  function drawMap(pen, left, top, size, values, kind) {
    const colour = colouring(values, kind);
    const cell = size / 28;
    values.forEach((v, i) => {
      if (v === 0) return;
      pen.fillStyle = colour(v);
      pen.fillRect(left + (i % 28) * cell, top + Math.floor(i / 28) * cell, cell + 0.3, cell + 0.3);
    });
    framed(pen, left, top, size);
  }

  // A line, or a shape that `trace` makes, in dark ink on a white halo.
  function outlined(pen, trace) {
    for (const [colour, width] of [["#ffffff", 4.5], [INK, 1.8]]) {
      Object.assign(pen, { strokeStyle: colour, lineWidth: width, lineJoin: "round" });
      pen.beginPath();
      trace();
      pen.stroke();
    }
  }
  // -------------------------------------------------------------------------------------------- a sheet to draw on
  const SHEET = 200; // CSS pixels

  // A sheet with ten examples: its element, its strokes as `picture` and `run`, and show(mark) that draws it.
  function sheetOf(net, title, changed) {
    const canvas = make("canvas", { class: "klrp-pad", role: "img", "aria-label": title });
    const buttons = EXAMPLES.map((_, digit) =>
      make("button", { type: "button", "aria-label": `example ${digit}`, onclick: () => sheet.take(digit) }, digit));
    const clear = make("button", { type: "button", class: "klrp-wide", onclick: () => sheet.take(null) }, "Clear");
    const root = make("div", { class: "klrp-sheet" }, make("p", { class: "klrp-head" }, title), canvas,
      make("div", { class: "klrp-buttons", role: "group", "aria-label": "or take an example" }, ...buttons, clear));
    const sheet = { root, strokes: [], example: null };
    sheet.renew = () => {
      sheet.picture = pictureOf(sheet.strokes);
      sheet.run = sheet.picture && forward(net, sheet.picture.x);
      buttons.forEach((button, digit) => button.setAttribute("aria-pressed", digit === sheet.example));
      changed();
    };
    sheet.take = (digit) => {
      Object.assign(sheet, { example: digit, strokes: digit === null ? [] : EXAMPLES[digit] });
      sheet.renew();
    };
    sheet.show = (pixel) => {
      const pen = cleared(canvas, SHEET, SHEET);
      framed(pen, 0, 0, SHEET);
      Object.assign(pen, { strokeStyle: INK, lineWidth: (2 * PEN * SHEET) / 24, lineCap: "round", lineJoin: "round" });
      for (const stroke of sheet.strokes) {
        pen.beginPath();
        for (const [x, y] of [...stroke, stroke[stroke.length - 1]]) pen.lineTo(x * SHEET, y * SHEET);
        pen.stroke();
      }
      if (sheet.picture && pixel !== null) {
        const [x, y] = sheet.picture.corner(pixel);
        const size = sheet.picture.size * SHEET;
        outlined(pen, () => pen.rect(x * SHEET, y * SHEET, size, size));
      }
      const says = sheet.run ? `The network says ${sheet.run.answer}.` : "It is blank.";
      canvas.setAttribute("aria-label", `${title}. ${says}`);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      sheet.strokes = [...(sheet.example === null ? sheet.strokes : []), [within(canvas, event)]]; // a stroke replaces an example
      Object.assign(sheet, { example: null, drawing: true });
      sheet.renew();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!sheet.drawing) return;
      sheet.strokes[sheet.strokes.length - 1].push(within(canvas, event));
      sheet.renew();
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (sheet.drawing = false));
    return sheet;
  }
  // -------------------------------------------------------------------------------------------------- the figure
  const SLIDERS = { // positions are logarithms
    theta: { name: "θ", says: "threshold θ on shares", base: 10, low: -5, high: 0, step: 0.02 },
    epsilon: { name: "ε", says: "stabiliser ε", base: 10, low: -9, high: 1, step: 0.1 },
    gamma: { name: "γ", says: "weight γ of what is positive", base: 10, low: -2, high: 2, step: 0.05 },
    p: { name: "p", says: "p, from sum to maximum", base: 2, low: 0, high: 5, step: 0.1 },
  };

  // What the colours of a map say, for class c. The walk starts with 1, whatever the sign of the logit.
  const LEGENDS = {
    real: (c, { ask, run }) => ask.rule === "zplus" ? `The darker, the more relevance comes down from ${c}, without signs.`
      : RULES[ask.rule].plain && run.z[2][c] < 0 ? `The logit of ${c} is negative. Red made it so; blue speaks for ${c}.`
        : `Red pixels speak for ${c}, blue ones against it.`,
    boolean: (c) => `Red: some relevant path leads from ${c} to this pixel.`,
    counting: (c) => `The darker, the more relevant paths lead from ${c} to the pixel.`,
    viterbi: (c) => `The darker, the stronger the best path from ${c} to the pixel.`,
    fuzzy: (c) => `The darker, the stronger the weakest share on the best path from ${c}.`,
    dial: (c) => `The darker, the larger the p-norm of all paths from ${c} to the pixel.`,
  };

  // Where the network's columns stand in a width: the size of the map, and the middle of neuron i of column l.
  function geometry(width) {
    const gap = Math.min(Math.max(0.055 * width, 10), 34);
    const size = Math.floor(Math.min((width - 88 - 3 * gap) / (1 + 16 / 25), 216));
    const cell = size / 25;
    const lefts = [0, size + gap, size + 2 * gap + 12 * cell, size + 3 * gap + 16 * cell];
    const [top, wide] = [20, [28, 12, 4, 1]];
    const pitch = [size / 28, cell, cell, size / 10];
    const place = (l, i) => [
      lefts[l] + (l === 3 ? 8 : ((i % wide[l]) + 0.5) * pitch[l]), top + (Math.floor(i / wide[l]) + 0.5) * pitch[l],
    ];
    return { size, top, cell, lefts, place, height: size + top + 2 };
  }

  // The index of the largest relevance; among equal ones of that with the best path.
  function strongest(map, best) {
    const better = (i, j) => map[i] > map[j] || (map[i] === map[j] && best[i] > best[j]);
    return map.reduce((found, _, i) => (better(i, found) ? i : found), 0);
  }

  // The network as columns of neurons, in the colours of their relevance, with the best path of a pixel.
  function drawNetwork(canvas, width, run, maps, kind, path, pixel) {
    const at = geometry(width);
    const pen = cleared(canvas, width, at.height);
    Object.assign(pen, { font: "12px sans-serif", fillStyle: GREY, textBaseline: "middle" });
    ["28 × 28 pixels", "300", "100", "10 classes"].forEach((name, l) => pen.fillText(name, at.lefts[l], 9));
    drawMap(pen, at.lefts[0], at.top, at.size, maps[0], kind);
    for (const l of [1, 2, 3]) {
      const colour = colouring(maps[l], kind);
      maps[l].forEach((v, i) => {
        pen.beginPath();
        pen.arc(...at.place(l, i), l === 3 ? 5 : 0.4 * at.cell, 0, 7);
        Object.assign(pen, { fillStyle: colour(v), strokeStyle: "#a8a8a8", lineWidth: 0.6 });
        pen.fill();
        pen.stroke();
      });
    }
    for (let c = 0; c < 10; c++) {
      const [x, y] = at.place(3, c);
      Object.assign(pen, { font: `${run && c === run.answer ? "bold " : ""}13px sans-serif`, fillStyle: INK });
      pen.fillText(c, x + 12, y + 0.5);
      pen.fillStyle = "#d9d9d9";
      if (run) pen.fillRect(x + 24, y - 4, 1 + 47 * run.chances[c], 8);
    }
    const mark = (l, i, trace) => {
      outlined(pen, trace);
      pen.fillStyle = colouring(maps[l], kind)(maps[l][i]);
      pen.fill();
    };
    if (path) {
      const places = path.neurons.map((i, l) => at.place(l, i));
      outlined(pen, () => places.forEach((p) => pen.lineTo(...p)));
      for (const l of [1, 2, 3]) mark(l, path.neurons[l], () => pen.arc(...places[l], l === 3 ? 6 : 0.55 * at.cell, 0, 7));
    }
    if (pixel !== null) {
      const [x, y] = at.place(0, pixel);
      const half = at.size / 56 + 1.5;
      mark(0, pixel, () => pen.rect(x - half, y - half, 2 * half, 2 * half));
    }
    return at;
  }

  // "pixel (7, 12) → neuron 41 → neuron 88 → class 0: 0.31 × 0.22 × 0.07 = 0.0048", and before it the pixel's relevance.
  function pathText(pixel, relevance, semiring, path) {
    const name = `ixel (${Math.floor(pixel / 28)},\u00a0${pixel % 28})`;
    let value = `has relevance ${written(relevance)}`;
    if (semiring === "boolean") value = relevance ? "is relevant" : "is not relevant";
    if (semiring === "counting") value = `has ${counted(relevance, "relevant path")}`;
    if (!path) return `P${name} ${value}. It is blank, and no path leads to it.`;
    const [, h, g, c] = path.neurons;
    const shares = path.shares.map(written).join(" × ");
    const way = `p${name} → neuron ${h} → neuron ${g} → class ${c}: ${shares} = ${written(path.product)}`;
    return `P${name} ${value}. Its best path (Viterbi): ${way}`;
  }

  const parsed = new Map(); // networks by their weights: several figures share one

  function klrpLive(element, weights, settings = {}) {
    if (!parsed.has(weights)) parsed.set(weights, network(weights));
    const net = parsed.get(weights);
    const state = { values: { ...USUAL }, rule: settings.rule, target: settings.class ? Number(settings.class) : null };
    state.semiring = settings.semiring in SEMIRINGS ? settings.semiring : "real";
    for (const name of Object.keys(USUAL)) if (settings[name]) state.values[name] = Number(settings[name]);
    Object.assign(state, { pixel: null, pointed: null, comparing: false }); // pixel: chosen; pointed: under the mouse
    // What changed is shown before the screen is drawn the next time; numbers are computed anew where `fresh`.
    let [waiting, stale, result] = [false, true, null];
    const later = (fresh = true) => {
      if (!waiting) requestAnimationFrame(update);
      [waiting, stale] = [true, stale || fresh];
    };
    const set = (name, fresh = true) => (value) => {
      state[name] = value;
      later(fresh);
    };
    // The elements, from top to bottom.
    const sheets = ["Draw a digit here", "Draw a second digit"].map((title) => sheetOf(net, title, later));
    const answer = make("p", { class: "klrp-head", role: "status" });
    const canvas = make("canvas", { role: "img" });
    const pixels = make("div", { class: "klrp-pixels", tabindex: "0", role: "application",
      "aria-label": "pixels of the map: arrow keys go from one to the next" });
    const legend = make("p", { class: "klrp-legend" });
    const path = make("p", { class: "klrp-path", "aria-live": "off" });
    const stage = make("div", { class: "klrp-net" }, answer, canvas, pixels, legend, path);
    const select = (changed) => make("select", { onchange: (event) => changed(event.target.value) });
    const picks = {
      class: select((value) => set("target")(value === "" ? null : Number(value))),
      semiring: select(set("semiring")),
      rule: select(set("rule")),
    };
    const parts = Object.keys(picks).map((name) => make("label", { "data-part": name }, name, picks[name]));
    const slider = make("input", { type: "range", autocomplete: "off", oninput: moved });
    const [sliderName, value] = [make("span"), make("span", { class: "klrp-value" })];
    const sliding = make("label", {}, sliderName, slider, value);
    const count = make("output", { class: "klrp-count" });
    const compare = make("button", { type: "button", "aria-expanded": "false", onclick: toggle }, "Compare with a second digit");
    parts.push(make("div", { class: "klrp-row klrp-controls", "data-part": "compare" }, compare));
    const secondCanvas = make("canvas", { role: "img" });
    const shared = make("p", { class: "klrp-legend", role: "status" });
    const second = make("div", { class: "klrp-row klrp-second", hidden: "" }, sheets[1].root,
      make("div", { class: "klrp-net" }, make("p", { class: "klrp-head" }, "What the two have in common"), secondCanvas, shared));
    const controls = make("div", { class: "klrp-row klrp-controls" }, ...parts.slice(0, 3), sliding, count);
    element.replaceChildren(make("div", { class: "klrp-row" }, sheets[0].root, stage), controls, parts[3], second);
    element.classList.add("klrp-live");
    for (const part of parts) part.hidden = settings.parts && !settings.parts.split(/\s+/).includes(part.dataset.part);
    for (const c of ["", ...Array(10).keys()]) picks.class.append(make("option", { value: c }, c));
    for (const [id, { name }] of Object.entries(SEMIRINGS)) picks.semiring.append(make("option", { value: id }, name));
    const asked = () => completed({ ...state.values, semiring: state.semiring, rule: state.rule });
    const cuts = (ask) => SEMIRINGS[ask.semiring].theta === "cut";
    const sliderOf = (ask) => (SEMIRINGS[ask.semiring].theta ? "theta" : SEMIRINGS[ask.semiring].slider ?? RULES[ask.rule].slider);
    // The slider was moved: its lowest place for θ is the semiring's default.
    function moved() {
      const name = sliderOf(asked());
      const { base, low } = SLIDERS[name];
      const lowest = name === "theta" && Number(slider.value) <= low;
      state.values[name] = lowest ? null : Number((base ** Number(slider.value)).toPrecision(2));
      later();
    }
    // The second sheet opens or closes; shared paths are counted, so that at first θ is one that asks for something.
    function toggle() {
      state.comparing = !state.comparing;
      compare.setAttribute("aria-expanded", state.comparing);
      second.hidden = !state.comparing;
      if (state.comparing) {
        if (!cuts(asked())) state.semiring = "counting";
        state.values.theta ??= 0.01;
        if (!sheets[1].run) sheets[1].take(((sheets[0].run?.answer ?? 3) + 5) % 10);
      }
      later();
    }
    // All numbers for what is drawn and asked.
    function computed() {
      const ask = asked();
      const { run } = sheets[0];
      const target = state.target ?? run?.answer ?? 0;
      if (!run) return { ask, target, maps: SIZES.map((n) => new Float64Array(n)), paths: 0 };
      const asks = [ask, { semiring: "viterbi" }, { ...ask, semiring: "counting" }].slice(0, cuts(ask) ? 3 : 2);
      const [main, best, counts] = asks.map((each) => walk(net, [run], [target], each));
      return { ask, run, target, maps: main.maps, best, paths: counts?.maps[0].reduce(add) };
    }
    // Controls show what is asked, and those that do not apply are off.
    function showControls({ ask, run }) {
      picks.semiring.value = ask.semiring;
      const rules = SEMIRINGS[ask.semiring].rules.map((id) => {
        const { name, slider: held } = RULES[id];
        const text = id === "share" && ask.semiring === "dial" ? "share by the p-norm" : name;
        return make("option", { value: id }, held ? `${text}, ${SLIDERS[held].name} = ${written(ask[held])}` : text);
      });
      picks.rule.replaceChildren(...rules);
      picks.rule.value = ask.rule;
      picks.rule.disabled = rules.length < 2;
      picks.class.options[0].textContent = run ? `the answer, ${run.answer}` : "the answer";
      picks.class.value = state.target ?? "";
      const name = sliderOf(ask);
      sliding.hidden = !name;
      if (!name) return;
      const { base, low, high, step, says } = SLIDERS[name];
      Object.assign(slider, { min: low, max: high, step });
      slider.value = Math.max(low, ask[name] > 0 ? Math.log(ask[name]) / Math.log(base) : low);
      sliderName.textContent = SLIDERS[name].name;
      value.textContent = `= ${written(ask[name])}`;
      slider.setAttribute("aria-label", says);
      slider.setAttribute("aria-valuetext", written(ask[name]));
    }
    // Say something once: what is the same is not announced again.
    function say(where, ...words) {
      const whole = make("span", {}, ...words);
      if (where.textContent !== whole.textContent) where.replaceChildren(whole);
    }
    // The answer with its softmax probability, in words and the digit in bold.
    function answered({ run, target }) {
      if (!run) return ["It waits for a digit."];
      const instead = target === run.answer ? "" : ` The map is that of class ${target}.`;
      return ["The network says ", make("b", {}, run.answer), ` with ${percent(run.chances[run.answer])}.${instead}`];
    }
    // How much there is in all, beside the slider.
    function total({ ask, run, maps, paths }) {
      if (!run) return "";
      if (ask.semiring === "real") return `The relevances add up to ${written(maps[0].reduce(add))}.`;
      const relevant = maps[0].reduce((n, v) => n + (v !== 0), 0);
      if (!cuts(ask)) return `${counted(relevant, "pixel")} with a path`;
      return `${counted(relevant, "relevant pixel")}, ${counted(paths, "relevant path")}`;
    }
    // What is seen anew: all of it where the numbers are stale, else the path of another pixel.
    function update() {
      if (stale) {
        result = computed();
        showControls(result);
        say(answer, ...answered(result));
        say(count, total(result));
        say(legend, result.run ? LEGENDS[result.ask.semiring](result.target, result) : "");
        canvas.setAttribute("aria-label", "The network as columns of neurons, coloured by their relevance for class " +
          `${result.target}. ${legend.textContent} ${count.textContent}`);
        if (state.comparing) showSecond(result);
      }
      [waiting, stale] = [false, false];
      const { ask, run, maps, best } = result;
      const pixel = run ? state.pointed ?? state.pixel ?? strongest(maps[0], best.maps[0]) : null;
      const way = run && bestPath(net, run, best, pixel);
      const at = drawNetwork(canvas, Math.max(stage.clientWidth, 260), run, maps, SEMIRINGS[ask.semiring].colours, way, pixel);
      const size = `${at.size}px`;
      Object.assign(pixels.style, { left: "0", top: `${canvas.offsetTop + at.top}px`, width: size, height: size });
      sheets[0].show(pixel);
      say(path, run ? pathText(pixel, maps[0][pixel], ask.semiring, way) : "Draw, or take one of the ten examples.");
      state.shown = pixel ?? 0;
    }
    // Two digits: their maps, that of the paths which both have, and how many they are, each digit for its own class.
    function showSecond({ ask, target }) {
      const runs = sheets.map((sheet) => sheet.run);
      sheets[1].show(null);
      if (!runs[0] || !runs[1]) return say(shared, "Draw both.");
      const counting = { ...ask, semiring: "counting", theta: state.values.theta };
      const targets = [target, runs[1].answer];
      const alone = runs.map((run, i) => walk(net, [run], [targets[i]], counting).maps[0]);
      const both = walk(net, runs, targets, counting).maps[0];
      const [gap, size] = [12, Math.floor(Math.min((Math.max(second.lastChild.clientWidth, 200) - 24) / 3, 180))];
      const pen = cleared(secondCanvas, 3 * size + 2 * gap, size + 22);
      Object.assign(pen, { font: "12px sans-serif", textBaseline: "middle" });
      const names = [`first, class ${targets[0]}`, `second, class ${targets[1]}`, "paths of both"];
      const [a, b, ab] = [...alone, both].map((map, i) => {
        pen.fillStyle = GREY;
        pen.fillText(names[i], i * (size + gap), 9);
        drawMap(pen, i * (size + gap), 20, size, map);
        return map.reduce(add);
      });
      const [first, other] = [a, b].map((n, i) => `${counted(n, "relevant path")} from class ${targets[i]}`);
      const text = `θ = ${written(completed(counting).theta)}: the first digit has ${first}, the second ${other}. ` +
        `${counted(ab, "path")} ${ab === 1 ? "is" : "are"} relevant for both, each digit for its own class.`;
      say(shared, text);
      secondCanvas.setAttribute("aria-label", `Three maps of relevant paths: of each digit, and of both. ${text}`);
    }
    // Pointing at a pixel shows its best path; a click or an arrow key stays there.
    const index = (x, y) => 28 * Math.min(27, Math.max(0, Math.floor(y))) + Math.min(27, Math.max(0, Math.floor(x)));
    const pixelAt = (event) => index(...within(pixels, event).map((v) => 28 * v));
    const [point, choose] = [set("pointed", false), set("pixel", false)];
    const listeners = {
      pointermove: (event) => point(pixelAt(event)),
      pointerleave: () => point(null),
      click: (event) => choose(pixelAt(event)),
      focus: () => path.setAttribute("aria-live", "polite"), // read out for keys alone
      blur: () => path.setAttribute("aria-live", "off"),
      keydown: (event) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (!step) return;
        event.preventDefault();
        state.pointed = null;
        choose(index((state.shown % 28) + step[0], Math.floor(state.shown / 28) + step[1]));
      },
    };
    for (const [name, listener] of Object.entries(listeners)) pixels.addEventListener(name, listener);
    element.addEventListener("keydown", (event) => event.stopPropagation()); // arrow keys are not the page's here
    sheets[0].take(settings.example === "" ? null : Number(settings.example ?? 3));
    update();
    new ResizeObserver(() => later()).observe(stage);
    return { state, sheets, later, update };
  }

  return Object.assign(klrpLive, { network, forward, walk, bestPath, pictureOf, EXAMPLES });
})();

// In the book every figure of the page is built when the page has been read; in Jupyter anywidget asks for each.
if (typeof klrpWeights !== "undefined") {
  for (const element of document.querySelectorAll("div.klrp-live")) klrpLive(element, klrpWeights, element.dataset);
}
