package org.tfmiaq.sample

import android.app.Activity
import android.content.res.AssetManager
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.os.Bundle
import android.widget.TextView
import java.io.FileInputStream
import java.nio.MappedByteBuffer
import java.nio.channels.FileChannel

/** Classifies the picture in the assets, and shows the classes. */
class MainActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val view = TextView(this)
        setContentView(view)
        // Small networks take milliseconds; larger ones belong on a thread of their own.
        Classifier(mapped(assets, "model.tflite")).use { classifier ->
            val picture = assets.open("sample.png").use { BitmapFactory.decodeStream(it) }
            val answers = classifier.classify(pixelsOf(picture, classifier))
            view.text = answers.take(5).joinToString("\n") { "${it.label}: ${it.output}" }
        }
    }
}

private fun mapped(assets: AssetManager, name: String): MappedByteBuffer =
    assets.openFd(name).use { file ->
        FileInputStream(file.fileDescriptor).channel.use {
            it.map(FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)
        }
    }

/** Returns a picture in the size that the network takes, as numbers from 0 to 255. */
private fun pixelsOf(picture: Bitmap, classifier: Classifier): FloatArray {
    val scaled = Bitmap.createScaledBitmap(picture, classifier.width, classifier.height, true)
    val colors = IntArray(classifier.width * classifier.height)
    scaled.getPixels(colors, 0, classifier.width, 0, 0, classifier.width, classifier.height)
    val pixels = FloatArray(colors.size * classifier.channels)
    for ((place, color) in colors.withIndex()) {
        val red = (color shr 16 and 0xff).toFloat()
        val green = (color shr 8 and 0xff).toFloat()
        val blue = (color and 0xff).toFloat()
        if (classifier.channels == 1) {
            pixels[place] = 0.299f * red + 0.587f * green + 0.114f * blue
        } else {
            pixels[3 * place] = red
            pixels[3 * place + 1] = green
            pixels[3 * place + 2] = blue
        }
    }
    return pixels
}
