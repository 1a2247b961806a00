// SPDX-License-Identifier: MIT
// What the network does between its matrix products, for model/kernels.py. Plain loops whose inner one runs over
// channels, so that the compiler vectorises them without being allowed to reorder a sum.
//
// Arrays are [steps][rows][channels] of float unless said. The steps of neurons' currents, of shortcuts and of spikes
// may lie anywhere (stride 0: all steps are one); so may the rows of keys, values and queries.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

// Over channels; none of the arrays overlap, but for those that are read and written at the same place.
#define CHANNELS _Pragma("GCC ivdep") for (long c = 0; c < n; c++)

namespace {

// Channels of a row at a time where all its steps are needed at once: few enough to stay in the nearest cache.
constexpr long CHUNK = 64;

// A few channels at once where sums are to stay in a register.
constexpr long LANES = 16;
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));
inline Lanes& lanes(float* x) { return *reinterpret_cast<Lanes*>(x); }

struct Norm {  // y = gain * u + offset
    std::vector<float> inverse, gain, offset;
};

Norm norm_of(const float* mean, const float* variance, const float* weight, const float* bias, float epsilon, long n) {
    Norm norm{std::vector<float>(n), std::vector<float>(n), std::vector<float>(n)};
    CHANNELS {
        norm.inverse[c] = float(1.0 / std::sqrt(double(variance[c]) + epsilon));
        norm.gain[c] = norm.inverse[c] * weight[c];
        norm.offset[c] = bias[c] - mean[c] * norm.gain[c];
    }
    return norm;
}

inline uint16_t bfloat16(float x) {  // round to nearest even, as torch does
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The membrane of one step from the one before, which is zero after a spike.
inline float charge(float current, float kept) { return current + 0.25f * kept; }

struct Surrogate {  // the rectangle's half width and height per channel
    std::vector<float> half, height;
    Surrogate(const float* threshold, long n) : half(n), height(n) {
        CHANNELS {
            half[c] = threshold[c] > 0 ? threshold[c] : 0.5f;
            height[c] = 0.5f / half[c];
        }
    }
};

// Fetch what the row after next needs: the steps of a row depend on each other: too long for a processor to look past.
inline void ahead(const float* x, long n) {
    for (long c = 0; c < n; c += 16) __builtin_prefetch(x + c);
}

// Gradient of the neurons of one row and a few channels: membranes m [steps][CHUNK] and the spikes' gradient -> that of
// the current, [steps][CHUNK].
void fire_back(const float* m, const float* threshold, const float* half, const float* height, const float* gradient,
               long step, float* to, long steps, long n) {
    for (long t = steps - 1; t >= 0; t--) {
        const float *mt = m + t * CHUNK, *g = gradient + t * step, *later = to + (t + 1) * CHUNK;
        float* out = to + t * CHUNK;
        if (t == steps - 1)
            CHANNELS out[c] = std::fabs(mt[c] - threshold[c]) < half[c] ? g[c] * height[c] : 0.0f;
        else
            CHANNELS {
                float through = std::fabs(mt[c] - threshold[c]) < half[c] ? g[c] * height[c] : 0.0f;
                out[c] = through + (mt[c] <= threshold[c] ? 0.25f * later[c] : 0.0f);
            }
    }
}

constexpr long BLOCK = 96;  // rows that stay in the cache; a multiple of a tile's

// Sums for mean and variance, centred on the first row, or a mean far above the deviation would swallow it.
struct Statistics {
    std::vector<float> centre, part, part_square;
    std::vector<double> sum, square;
    Statistics(const float* first, long n)
        : centre(first, first + n), part(n), part_square(n), sum(n), square(n) {}
    void add(const float* u, long rows) {
        long n = centre.size();
        const float* middle = centre.data();
        float *s = part.data(), *q = part_square.data();
        std::fill(part.begin(), part.end(), 0.0f);
        std::fill(part_square.begin(), part_square.end(), 0.0f);
        for (long r = 0; r < rows; r++, u += n) CHANNELS {
                float x = u[c] - middle[c];
                s[c] += x;
                q[c] += x * x;
            }
        CHANNELS {
            sum[c] += s[c];
            square[c] += q[c];
        }
    }
    void write(float* mean, float* variance, long count) const {
        for (size_t c = 0; c < centre.size(); c++) {
            double shift = sum[c] / count;
            mean[c] = float(centre[c] + shift);
            variance[c] = float(std::max(0.0, square[c] / count - shift * shift));
        }
    }
};

#ifdef __AVX512BF16__
// out [ROWS][16 * VECTORS] = a b, held in registers; b is pairs of rows, [depth / 2][16 * VECTORS].
template <int ROWS, int VECTORS>
void tile(const uint16_t* a, const uint32_t* b, float* out, long depth, long n) {
    __m512 sums[ROWS][VECTORS];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_ps();
    for (long k = 0; k < depth / 2; k++, b += 16 * VECTORS) {
        __m512bh weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) weights[v] = (__m512bh)_mm512_loadu_si512(b + 16 * v);
        for (int r = 0; r < ROWS; r++) {
            int32_t pair;
            std::memcpy(&pair, a + r * depth + 2 * k, 4);
            for (int v = 0; v < VECTORS; v++)
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], weights[v], (__m512bh)_mm512_set1_epi32(pair));
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(out + r * n + 16 * v, sums[r][v]);
}

template <int VECTORS>
void tiles(const uint16_t* a, const uint32_t* b, float* out, long rows, long depth, long n) {
    long r = 0;
    for (; r + 6 <= rows; r += 6) tile<6, VECTORS>(a + r * depth, b, out + r * n, depth, n);
    for (; r < rows; r++) tile<1, VECTORS>(a + r * depth, b, out + r * n, depth, n);
}

void tiles(const uint16_t* a, const uint32_t* b, float* out, long rows, long depth, long n, long vectors) {
    if (vectors == 4) tiles<4>(a, b, out, rows, depth, n);
    if (vectors == 3) tiles<3>(a, b, out, rows, depth, n);
    if (vectors == 2) tiles<2>(a, b, out, rows, depth, n);
    if (vectors == 1) tiles<1>(a, b, out, rows, depth, n);
}
#endif

}  // namespace

extern "C" {

void lif_forward(const float* u, long step, const float* threshold, float* spikes, long steps, long rows, long n) {
    std::vector<float> buffer(n);
    float* kept = buffer.data();
    for (long r = 0; r < rows; r++) {
        std::fill(buffer.begin(), buffer.end(), 0.0f);
        for (long t = 0; t < steps; t++) {
            const float* in = u + t * step + r * n;
            float* out = spikes + (t * rows + r) * n;
            CHANNELS {
                float m = charge(in[c], kept[c]);
                out[c] = m > threshold[c] ? 1.0f : 0.0f;
                kept[c] = m > threshold[c] ? 0.0f : m;
            }
        }
    }
}

void lif_backward(const float* u, long step, const float* threshold, const float* gradient, float* to, long steps,
                  long rows, long channels) {
    Surrogate surrogate(threshold, channels);
    std::vector<float> membranes(steps * CHUNK), back(steps * CHUNK);
    for (long r = 0; r < rows; r++)
        for (long first = 0; first < channels; first += CHUNK) {
            long n = std::min(CHUNK, channels - first), at = r * channels + first, apart = rows * channels;
            const float* limit = threshold + first;
            for (long t = 0; t < steps; t++) {
                const float* in = u + t * step + at;
                float *m = membranes.data() + t * CHUNK, *before = m - CHUNK;
                ahead(in + 2 * channels, n);
                ahead(gradient + t * apart + at + 2 * channels, n);
                if (t == 0)
                    CHANNELS m[c] = in[c];
                else
                    CHANNELS m[c] = charge(in[c], before[c] > limit[c] ? 0.0f : before[c]);
            }
            fire_back(membranes.data(), limit, &surrogate.half[first], &surrogate.height[first], gradient + at, apart,
                      back.data(), steps, n);
            for (long t = 0; t < steps; t++) std::copy_n(back.data() + t * CHUNK, n, to + t * apart + at);
        }
}

// Mean and (biased) variance of each channel over all `count` rows of u.
void statistics(const float* u, float* mean, float* variance, long count, long n) {
    Statistics sums(u, n);
    for (long r = 0; r < count; r += BLOCK) sums.add(u + r * n, std::min(BLOCK, count - r));
    sums.write(mean, variance, count);
}

// Whether `product` was compiled, which needs a processor that multiplies bfloat16.
long has_product() {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

// out [rows][n] = a [rows][depth] b, and the statistics of out where mean is not null. a is bfloat16 bits; b is
// [depth][n], or [n][depth] if `transposed`, rounded to bfloat16 here. depth is even, n a multiple of 16.
void product(const uint16_t* a, const float* b, long transposed, float* out, float* mean, float* variance, long rows,
             long depth, long n) {
#ifdef __AVX512BF16__
    std::vector<uint32_t> pairs(depth / 2 * n);
    for (long k = 0; k < depth; k += 2)
        for (long c = 0; c < n; c++) {
            float even = transposed ? b[c * depth + k] : b[k * n + c];
            float odd = transposed ? b[c * depth + k + 1] : b[(k + 1) * n + c];
            // columns in panels of 64: the tile reads them one after the other
            long panel = c / 64 * 64, width = std::min(64L, n - panel);
            pairs[panel * (depth / 2) + k / 2 * width + c - panel] = bfloat16(even) | uint32_t(bfloat16(odd)) << 16;
        }
    std::vector<Statistics> sums;
    for (long r = 0; r < rows; r += BLOCK) {
        long count = std::min(BLOCK, rows - r);
        for (long panel = 0; panel < n; panel += 64)
            tiles(a + r * depth, pairs.data() + panel * (depth / 2), out + r * n + panel, count, depth, n,
                  std::min(64L, n - panel) / 16);
        if (mean && r == 0) sums.emplace_back(out, n);
        if (mean) sums[0].add(out + r * n, count);
    }
    if (mean) sums[0].write(mean, variance, rows);
#endif
}

// Norm, then (each may be null) neurons or the addition to the shortcut.
void norm_forward(const float* u, const float* mean, const float* variance, const float* weight, const float* bias,
                  float epsilon, const float* threshold, const float* shortcut, long step, float* out, long steps,
                  long rows, long n) {
    Norm norm = norm_of(mean, variance, weight, bias, epsilon, n);
    const float *gain = norm.gain.data(), *offset = norm.offset.data();
    std::vector<float> buffer(n);
    float* kept = buffer.data();
    for (long r = 0; r < rows; r++) {
        std::fill(buffer.begin(), buffer.end(), 0.0f);
        for (long t = 0; t < steps; t++) {
            const float* in = u + (t * rows + r) * n;
            float* to = out + (t * rows + r) * n;
            if (threshold) {
                CHANNELS {
                    float m = charge(in[c] * gain[c] + offset[c], kept[c]);
                    to[c] = m > threshold[c] ? 1.0f : 0.0f;
                    kept[c] = m > threshold[c] ? 0.0f : m;
                }
            } else if (shortcut) {
                const float* x = shortcut + t * step + r * n;
                CHANNELS to[c] = x[c] + (in[c] * gain[c] + offset[c]);
            } else {
                CHANNELS to[c] = in[c] * gain[c] + offset[c];
            }
        }
    }
}

// Gradients of norm_forward where mean and variance are those of u: to (like u) or to_bfloat16, the other is null.
void norm_backward(const float* u, const float* mean, const float* variance, const float* weight, const float* bias,
                   float epsilon, const float* threshold, const float* gradient, float* to, uint16_t* to_bfloat16,
                   float* to_weight, float* to_bias, long steps, long rows, long channels) {
    Norm norm = norm_of(mean, variance, weight, bias, epsilon, channels);
    Surrogate surrogate(threshold ? threshold : weight, channels);
    std::vector<float> membranes(steps * CHUNK), local(steps * CHUNK), part(channels), part_product(channels);
    std::vector<double> sum(channels), product(channels);
    const long apart = rows * channels;

    // The gradient of the norm's result in some channels of a row, and the distance of its steps. It is computed twice
    // rather than kept: memory is slower than that.
    auto before_neurons = [&](long at, long first, long n) -> std::pair<const float*, long> {
        if (!threshold) return {gradient + at, apart};
        const float *gain = &norm.gain[first], *offset = &norm.offset[first], *limit = threshold + first;
        for (long t = 0; t < steps; t++) {
            const float* in = u + t * apart + at;
            float *m = membranes.data() + t * CHUNK, *before = m - CHUNK;
            ahead(in + 2 * channels, n);
            ahead(gradient + t * apart + at + 2 * channels, n);
            if (t == 0)
                CHANNELS m[c] = in[c] * gain[c] + offset[c];
            else
                CHANNELS m[c] = charge(in[c] * gain[c] + offset[c], before[c] > limit[c] ? 0.0f : before[c]);
        }
        fire_back(membranes.data(), limit, &surrogate.half[first], &surrogate.height[first], gradient + at, apart,
                  local.data(), steps, n);
        return {local.data(), CHUNK};
    };

    for (long r = 0; r < rows; r++) {
        for (long first = 0; first < channels; first += CHUNK) {
            long n = std::min(CHUNK, channels - first), at = r * channels + first;
            auto [back, step] = before_neurons(at, first, n);
            float *s = &part[first], *p = &part_product[first];
            for (long t = 0; t < steps; t++) {
                const float *in = u + t * apart + at, *g = back + t * step, *centre = mean + first;
                CHANNELS {
                    s[c] += g[c];
                    p[c] += g[c] * (in[c] - centre[c]);
                }
            }
        }
        if (r % 16 == 15 || r == rows - 1)
            for (long c = 0; c < channels; c++) {
                sum[c] += part[c];
                product[c] += part_product[c];
                part[c] = part_product[c] = 0.0f;
            }
    }
    std::vector<float> shift(channels), slope(channels);
    for (long c = 0; c < channels; c++) {
        to_bias[c] = float(sum[c]);
        to_weight[c] = float(product[c] * norm.inverse[c]);
        shift[c] = float(sum[c] / (steps * rows));
        slope[c] = float(product[c] * norm.inverse[c] * norm.inverse[c] / (steps * rows));
    }
    for (long r = 0; r < rows; r++)
        for (long first = 0; first < channels; first += CHUNK) {
            long n = std::min(CHUNK, channels - first), at = r * channels + first;
            auto [back, step] = before_neurons(at, first, n);
            const float *gain = &norm.gain[first], *low = &shift[first], *tilt = &slope[first], *centre = mean + first;
            for (long t = 0; t < steps; t++) {
                const float *in = u + t * apart + at, *g = back + t * step;
                if (to_bfloat16) {
                    uint16_t* out = to_bfloat16 + t * apart + at;
                    CHANNELS out[c] = bfloat16(gain[c] * (g[c] - low[c] - (in[c] - centre[c]) * tilt[c]));
                } else {
                    float* out = to + t * apart + at;
                    CHANNELS out[c] = gain[c] * (g[c] - low[c] - (in[c] - centre[c]) * tilt[c]);
                }
            }
        }
}

// current[r] = query[r] * sum_d taps[d] key[r - d] value[r - d] over the rows of a window. age[r] int32 counts the rows
// of its window before r; taps is [window][n].
void window_forward(const float* key, const float* value, const float* query, long step, long row, const float* taps,
                    const int32_t* age, float* current, long steps, long rows, long n, long window) {
    std::vector<float> ring(window * n);
    for (long t = 0; t < steps; t++)
        for (long r = 0; r < rows; r++) {
            const long at = t * step + r * row;
            const float *k = key + at, *v = value + at, *q = query + at;
            float *newest = ring.data() + (age[r] % window) * n, *out = current + (t * rows + r) * n;
            CHANNELS {
                newest[c] = k[c] * v[c];
                out[c] = newest[c] * taps[c];
            }
            for (long d = 1; d <= std::min<long>(age[r], window - 1); d++) {
                const float *past = ring.data() + ((age[r] - d) % window) * n, *tap = taps + d * n;
                CHANNELS out[c] += past[c] * tap[c];
            }
            CHANNELS out[c] *= q[c];
        }
}

// Its gradients; key, value and query share their strides, their gradients too.
void window_backward(const float* key, const float* value, const float* query, long step, long row, const float* taps,
                     const int32_t* age, const float* gradient, float* to_key, float* to_value, float* to_query,
                     long to_step, long to_row, float* to_taps, long steps, long rows, long n, long window) {
    const long wide = (n + LANES - 1) / LANES * LANES;  // rows of the buffers end in zeros
    std::vector<float> pairs, weighted, back, sum, tap(window * wide), to_tap(window * wide);
    for (long d = 0; d < window; d++) std::copy_n(taps + d * n, n, &tap[d * wide]);
    for (long t = 0; t < steps; t++)
        for (long first = 0, length; first < rows; first += length) {
            for (length = 1; first + length < rows && age[first + length] != 0; length++) {
            }
            for (auto* buffer : {&pairs, &weighted, &back, &sum}) buffer->resize(length * wide);
            for (long i = 0; i < length; i++) {
                long at = t * step + (first + i) * row;
                const float *k = key + at, *v = value + at, *q = query + at, *g = gradient + (t * rows + first + i) * n;
                float *pair = &pairs[i * wide], *w = &weighted[i * wide];
                CHANNELS {
                    pair[c] = k[c] * v[c];
                    w[c] = q[c] * g[c];
                }
            }
            for (long c = 0; c < wide; c += LANES) {
                for (long i = 0; i < length; i++) {
                    Lanes total{}, through{};
                    for (long d = 0; d <= std::min(i, window - 1); d++)
                        total += lanes(&pairs[(i - d) * wide + c]) * lanes(&tap[d * wide + c]);
                    for (long d = 0; d <= std::min(length - 1 - i, window - 1); d++)
                        through += lanes(&weighted[(i + d) * wide + c]) * lanes(&tap[d * wide + c]);
                    lanes(&sum[i * wide + c]) = total;
                    lanes(&back[i * wide + c]) = through;
                }
                for (long d = 0; d < std::min(window, length); d++) {
                    Lanes total{};
                    for (long i = d; i < length; i++)
                        total += lanes(&weighted[i * wide + c]) * lanes(&pairs[(i - d) * wide + c]);
                    lanes(&to_tap[d * wide + c]) += total;
                }
            }
            for (long i = 0; i < length; i++) {
                long at = t * step + (first + i) * row, to = t * to_step + (first + i) * to_row;
                const float *k = key + at, *v = value + at, *g = gradient + (t * rows + first + i) * n;
                const float *b = &back[i * wide], *s = &sum[i * wide];
                float *to_k = to_key + to, *to_v = to_value + to, *to_q = to_query + to;
                CHANNELS {
                    to_k[c] = b[c] * v[c];
                    to_v[c] = b[c] * k[c];
                    to_q[c] = s[c] * g[c];
                }
            }
        }
    for (long d = 0; d < window; d++) std::copy_n(&to_tap[d * wide], n, to_taps + d * n);
}

}  // extern "C"
