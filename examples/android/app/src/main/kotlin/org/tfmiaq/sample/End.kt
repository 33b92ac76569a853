package org.tfmiaq.sample

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Type of the numbers that a file takes or gives. */
enum class Kind(val bytes: Int, val lowest: Int, val highest: Int) {
    FLOAT(4, 0, 0),
    INT8(1, -128, 127),
    UINT8(1, 0, 255),
}

/**
 * One end of a network: its input or its output.
 *
 * An integer end holds codes: number = (code - zeroPoint) * scale. A float end holds the numbers themselves.
 */
class End(val kind: Kind, val scale: Float = 1f, val zeroPoint: Int = 0) {
    /** A buffer for so many numbers, in the byte order that LiteRT takes. */
    fun buffer(count: Int): ByteBuffer = ByteBuffer.allocateDirect(count * kind.bytes).order(ByteOrder.nativeOrder())

    /** Writes numbers into a buffer from its beginning, as codes of an integer end. */
    fun write(numbers: FloatArray, buffer: ByteBuffer) {
        buffer.rewind()
        for (number in numbers) {
            if (kind == Kind.FLOAT) buffer.putFloat(number) else buffer.put(code(number).toByte())
        }
        buffer.rewind()
    }

    /** Reads numbers from the beginning of a buffer. */
    fun read(buffer: ByteBuffer, count: Int): FloatArray {
        buffer.rewind()
        return FloatArray(count) {
            when (kind) {
                Kind.FLOAT -> buffer.getFloat()
                Kind.INT8 -> (buffer.get().toInt() - zeroPoint) * scale
                Kind.UINT8 -> ((buffer.get().toInt() and 0xff) - zeroPoint) * scale
            }
        }
    }

    private fun code(number: Float): Int {
        val nearest = Math.rint(number.toDouble() / scale).toInt() + zeroPoint
        return Math.min(Math.max(nearest, kind.lowest), kind.highest)
    }
}

/** What stands between a picture and the network: (value - mean) / std, one of each or one for each channel. */
class Normalization(private val mean: FloatArray, private val std: FloatArray) {
    /** Normalizes pixels in place, whose channels lie side by side. */
    fun apply(pixels: FloatArray) {
        for (at in pixels.indices) {
            pixels[at] = (pixels[at] - mean[at % mean.size]) / std[at % std.size]
        }
    }
}
