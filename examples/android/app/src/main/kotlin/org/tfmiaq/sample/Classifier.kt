package org.tfmiaq.sample

import java.io.Closeable
import java.nio.ByteBuffer
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.Tensor
import org.tensorflow.lite.support.metadata.MetadataExtractor
import org.tensorflow.lite.support.metadata.schema.NormalizationOptions

/** A class and the network's output for it: a logit, or a probability where the model ends in a softmax. */
data class Answer(val label: String, val output: Float)

/**
 * Runs a .tflite that tfmiaq has converted, whatever its ends: float, int8 or uint8.
 *
 * Labels and normalization come from the file's own metadata.
 */
class Classifier(model: ByteBuffer, threads: Int = 2) : Closeable {
    private val metadata = MetadataExtractor(model)
    private val interpreter = Interpreter(model, Interpreter.Options().setNumThreads(threads))
    private val input = endOf(interpreter.getInputTensor(0))
    private val output = endOf(interpreter.getOutputTensor(0))
    private val shape: IntArray = interpreter.getInputTensor(0).shape()
    private val taken: ByteBuffer = input.buffer(shape.fold(1) { product, size -> product * size })
    private val classes = interpreter.getOutputTensor(0).numElements()
    private val given: ByteBuffer = output.buffer(classes)
    private val normalization = normalizationOf(metadata)

    val height = shape[1]
    val width = shape[2]
    val channels = shape[3]
    val labels: List<String> = labelsOf(metadata, classes)

    /** Returns the classes of one picture, the largest output first. Pixels go from 0 to 255, channels side by side. */
    fun classify(pixels: FloatArray): List<Answer> {
        require(pixels.size == height * width * channels) {
            "Expected ${height * width * channels} numbers. Received ${pixels.size}."
        }
        val numbers = pixels.copyOf()
        normalization?.apply(numbers)
        input.write(numbers, taken)
        given.rewind()
        interpreter.run(taken, given)
        val outputs = output.read(given, classes)
        return labels.indices.map { Answer(labels[it], outputs[it]) }.sortedByDescending { it.output }
    }

    override fun close() = interpreter.close()
}

private fun endOf(tensor: Tensor): End {
    val quantization = tensor.quantizationParams()
    return when (tensor.dataType()) {
        DataType.FLOAT32 -> End(Kind.FLOAT)
        DataType.INT8 -> End(Kind.INT8, quantization.scale, quantization.zeroPoint)
        DataType.UINT8 -> End(Kind.UINT8, quantization.scale, quantization.zeroPoint)
        else -> throw IllegalArgumentException("Expected float, int8 or uint8. Received ${tensor.dataType()}.")
    }
}

private fun labelsOf(metadata: MetadataExtractor, classes: Int): List<String> {
    if (!metadata.hasMetadata() || "labels.txt" !in metadata.associatedFileNames) {
        return List(classes) { "class $it" }
    }
    return metadata.getAssociatedFile("labels.txt").bufferedReader().use { it.readLines() }
}

private fun normalizationOf(metadata: MetadataExtractor): Normalization? {
    val tensor = if (metadata.hasMetadata()) metadata.getInputTensorMetadata(0) else null
    for (place in 0 until (tensor?.processUnitsLength() ?: 0)) {
        val options = tensor?.processUnits(place)?.options(NormalizationOptions()) as? NormalizationOptions ?: continue
        val mean = FloatArray(options.meanLength()) { options.mean(it) }
        return Normalization(mean, FloatArray(options.stdLength()) { options.std(it) })
    }
    return null
}
