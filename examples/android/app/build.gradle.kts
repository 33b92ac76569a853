plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "org.tfmiaq.sample"
    compileSdk = 35
    defaultConfig {
        applicationId = "org.tfmiaq.sample"
        minSdk = 24
        targetSdk = 35
        versionCode = 1
        versionName = "1"
    }
    // A compressed asset cannot be mapped into memory.
    androidResources { noCompress += "tflite" }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    // The interpreter. Packed files (convert(pack = True)) take 2.1 or later; all others run on 1.0 too.
    implementation("com.google.ai.edge.litert:litert:2.1.0")
    // MetadataExtractor: labels, normalization, scales and zero points.
    implementation("com.google.ai.edge.litert:litert-metadata:1.4.0")
}
