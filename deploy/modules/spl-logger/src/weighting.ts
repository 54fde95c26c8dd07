// Frequency weightings A and C of IEC 61672-1 (Annex E) as second-order sections, for any sample rate.
//
// C has two poles at f1 and two at f4; A is C with a pole each at f2 and f3 and two more zeros at 0 Hz. The high-pass
// parts are bilinear, each pole at its own frequency. The bilinear transform would let the two poles at f4 fall off too
// early, so theirs are matched: the same poles, and zeros that give the analogue magnitude at 0 Hz, at half the sample
// rate, and at f4 (or 0.27 of the rate, if that is lower).

const F1: f64 = 20.598997;
const F2: f64 = 107.65265;
const F3: f64 = 737.86223;
const F4: f64 = 12194.217;
const REFERENCE: f64 = 1000.0;

/** A section in transposed direct form II. */
export class Section {
  b0: f64 = 1.0;
  b1: f64 = 0.0;
  b2: f64 = 0.0;
  a1: f64 = 0.0;
  a2: f64 = 0.0;
  private z1: f64 = 0.0;
  private z2: f64 = 0.0;

  // @ts-ignore: decorator
  @inline
  run(x: f64): f64 {
    const y = this.b0 * x + this.z1;
    this.z1 = this.b1 * x - this.a1 * y + this.z2;
    this.z2 = this.b2 * x - this.a2 * y;
    return y;
  }

  /** Between blocks: Wasm cannot flush denormals, so what is far below any sample becomes zero. */
  settle(): void {
    if (Math.abs(this.z1) < 1e-20) this.z1 = 0.0;
    if (Math.abs(this.z2) < 1e-20) this.z2 = 0.0;
  }

  scale(gain: f64): void {
    this.b0 *= gain;
    this.b1 *= gain;
    this.b2 *= gain;
  }

  /** |H|² at `hz`. */
  power(hz: f64, rate: f64): f64 {
    return squared(this.b0, this.b1, this.b2, hz, rate) / squared(1.0, this.a1, this.a2, hz, rate);
  }
}

/** |b0 + b1 z⁻¹ + b2 z⁻²|² at `hz`. */
function squared(b0: f64, b1: f64, b2: f64, hz: f64, rate: f64): f64 {
  const w = (2.0 * Math.PI * hz) / rate;
  const re = b0 + b1 * Math.cos(w) + b2 * Math.cos(2.0 * w);
  const im = b1 * Math.sin(w) + b2 * Math.sin(2.0 * w);
  return re * re + im * im;
}

/** Two high-pass poles at `f` and `g` Hz, bilinear. */
function highPass(section: Section, f: f64, g: f64, rate: f64): void {
  const k = Math.tan((Math.PI * f) / rate), l = Math.tan((Math.PI * g) / rate);
  const p = (k - 1.0) / (k + 1.0), q = (l - 1.0) / (l + 1.0);
  section.b0 = 1.0 / ((1.0 + k) * (1.0 + l));
  section.b1 = -2.0 * section.b0;
  section.b2 = section.b0;
  section.a1 = p + q;
  section.a2 = p * q;
}

/** Two low-pass poles at `f` Hz, matched: after M. Vicanek, "Matched Second Order Digital Filters" (2016). */
function lowPass(section: Section, f: f64, rate: f64): void {
  const pole = Math.exp((-2.0 * Math.PI * f) / rate);
  section.a1 = -2.0 * pole;
  section.a2 = pole * pole;
  const half = rate / 2.0, match = Math.min(f, 0.27 * rate);
  const atZero = wanted(section, 0.0, f, rate), atHalf = wanted(section, half, f, rate);
  const high = Math.pow(Math.sin((Math.PI * match) / rate), 2.0), low = 1.0 - high;
  const rest = (wanted(section, match, f, rate) - atZero * low - atHalf * high) / (4.0 * low * high);
  const w = (Math.sqrt(atZero) + Math.sqrt(atHalf)) / 2.0;
  section.b0 = (w + Math.sqrt(w * w + rest)) / 2.0;
  section.b1 = (Math.sqrt(atZero) - Math.sqrt(atHalf)) / 2.0;
  section.b2 = -rest / (4.0 * section.b0);
}

/** What the numerator's |B|² has to be at `hz`: the analogue |H|² times the denominator's. */
function wanted(section: Section, hz: f64, f: f64, rate: f64): f64 {
  const analogue = Math.pow((f * f) / (f * f + hz * hz), 2.0);
  return analogue * squared(1.0, section.a1, section.a2, hz, rate);
}

/** Designs the weightings: `low` then `high` is C, and `rest` behind them makes it A. Both are 0 dB at 1 kHz. */
export function design(low: Section, high: Section, rest: Section, rate: f64): void {
  highPass(low, F1, F1, rate);
  lowPass(high, F4, rate);
  highPass(rest, F2, F3, rate);
  high.scale(1.0 / Math.sqrt(low.power(REFERENCE, rate) * high.power(REFERENCE, rate)));
  rest.scale(1.0 / Math.sqrt(rest.power(REFERENCE, rate)));
}
